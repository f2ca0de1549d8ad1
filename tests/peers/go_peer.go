// A peer that uses golang.org/x/net/ipv4. It reads requests from standard input, one JSON object a line, and answers each
// with one line: {"op": "open", "network": "udp4", "address": "0.0.0.0:5000"}. Octets are in hexadecimal.
//
// Its arguments and results are Go's own words: fields of Header and of ControlMessage as they are named there.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/ipv4"
)

type request struct {
	Op      string
	Network string
	Address string
	Raw     bool

	Interface string
	Group     string
	Source    string

	Payload string
	To      string
	Port    int
	TTL     int
	TOS     int

	Header  *header
	Control *control
	Octets  string
}

type header struct {
	Version, Len, TOS, TotalLen, ID, Flags, FragOff, TTL, Protocol, Checksum int
	Src, Dst, Options                                                        string
}

type control struct {
	TTL      int
	Src, Dst string
	IfIndex  int
}

type answer struct {
	Error   string   `json:",omitempty"`
	Octets  string   `json:",omitempty"`
	N       int      `json:",omitempty"`
	Peer    string   `json:",omitempty"`
	Header  *header  `json:",omitempty"`
	Control *control `json:",omitempty"`
}

// What PacketConn and RawConn have in common.
type conn interface {
	JoinGroup(*net.Interface, net.Addr) error
	JoinSourceSpecificGroup(*net.Interface, net.Addr, net.Addr) error
	SetMulticastInterface(*net.Interface) error
	SetMulticastTTL(int) error
	SetTTL(int) error
	SetTOS(int) error
	SetControlMessage(ipv4.ControlFlags, bool) error
	SetReadDeadline(time.Time) error
}

var (
	options conn
	packet  *ipv4.PacketConn
	raw     *ipv4.RawConn
	isUDP   bool
)

func main() {
	input, output := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	input.Buffer(nil, 1<<20)
	for input.Scan() {
		var asked request
		result := answer{}
		err := json.Unmarshal(input.Bytes(), &asked)
		if err == nil {
			result, err = serve(asked)
		}
		if err != nil {
			result.Error = err.Error()
		}
		if err := output.Encode(result); err != nil {
			os.Exit(1)
		}
	}
}

func serve(asked request) (answer, error) {
	switch asked.Op {
	case "open":
		return answer{}, open(asked)
	case "join":
		return answer{}, join(asked)
	case "send":
		return answer{}, send(asked)
	case "receive":
		return receive()
	case "marshal header":
		octets, err := asked.Header.toGo().Marshal()
		return answer{Octets: hex.EncodeToString(octets)}, err
	case "parse header":
		parsed, err := ipv4.ParseHeader(fromHex(asked.Octets))
		return answer{Header: fromHeader(parsed)}, err
	case "marshal control":
		return answer{Octets: hex.EncodeToString(asked.Control.toGo().Marshal())}, nil
	case "parse control":
		var parsed ipv4.ControlMessage
		err := parsed.Parse(fromHex(asked.Octets))
		return answer{Control: fromControl(&parsed)}, err
	}
	return answer{}, fmt.Errorf("no such operation: %q", asked.Op)
}

func open(asked request) error {
	endpoint, err := net.ListenPacket(asked.Network, asked.Address)
	if err != nil {
		return err
	}
	isUDP = strings.HasPrefix(asked.Network, "udp")
	if asked.Raw {
		raw, err = ipv4.NewRawConn(endpoint)
		options = raw
	} else {
		packet = ipv4.NewPacketConn(endpoint)
		options = packet
	}
	if err != nil {
		return err
	}
	flags := ipv4.FlagTTL | ipv4.FlagSrc | ipv4.FlagDst | ipv4.FlagInterface
	return options.SetControlMessage(flags, true)
}

func join(asked request) error {
	ifi, err := net.InterfaceByName(asked.Interface)
	if err != nil {
		return err
	}
	group := &net.UDPAddr{IP: net.ParseIP(asked.Group)}
	if asked.Source == "" {
		return options.JoinGroup(ifi, group)
	}
	return options.JoinSourceSpecificGroup(ifi, group, &net.UDPAddr{IP: net.ParseIP(asked.Source)})
}

func send(asked request) error {
	if asked.Interface != "" {
		ifi, err := net.InterfaceByName(asked.Interface)
		if err != nil {
			return err
		}
		if err := options.SetMulticastInterface(ifi); err != nil {
			return err
		}
	}
	if asked.Header != nil {
		return raw.WriteTo(asked.Header.toGo(), fromHex(asked.Payload), asked.Control.toGo())
	}
	if asked.TTL != 0 {
		if err := options.SetMulticastTTL(asked.TTL); err != nil {
			return err
		}
		if err := options.SetTTL(asked.TTL); err != nil {
			return err
		}
	}
	if err := options.SetTOS(asked.TOS); err != nil {
		return err
	}
	var to net.Addr = &net.IPAddr{IP: net.ParseIP(asked.To)}
	if isUDP {
		to = &net.UDPAddr{IP: net.ParseIP(asked.To), Port: asked.Port}
	}
	_, err := packet.WriteTo(fromHex(asked.Payload), asked.Control.toGo(), to)
	return err
}

func receive() (answer, error) {
	if err := options.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return answer{}, err
	}
	buffer := make([]byte, 1500)
	if raw != nil {
		h, payload, cm, err := raw.ReadFrom(buffer)
		if err != nil {
			return answer{}, err
		}
		return answer{Octets: hex.EncodeToString(payload), N: len(payload), Header: fromHeader(h), Control: fromControl(cm)}, nil
	}
	n, cm, peer, err := packet.ReadFrom(buffer)
	if err != nil {
		return answer{}, err
	}
	return answer{Octets: hex.EncodeToString(buffer[:n]), N: n, Peer: peer.String(), Control: fromControl(cm)}, nil
}

func (h *header) toGo() *ipv4.Header {
	return &ipv4.Header{
		Version: h.Version, Len: h.Len, TOS: h.TOS, TotalLen: h.TotalLen, ID: h.ID, Flags: ipv4.HeaderFlags(h.Flags),
		FragOff: h.FragOff, TTL: h.TTL, Protocol: h.Protocol, Checksum: h.Checksum,
		Src: net.ParseIP(h.Src), Dst: net.ParseIP(h.Dst), Options: fromHex(h.Options),
	}
}

func fromHeader(h *ipv4.Header) *header {
	if h == nil {
		return nil
	}
	return &header{
		Version: h.Version, Len: h.Len, TOS: h.TOS, TotalLen: h.TotalLen, ID: h.ID, Flags: int(h.Flags),
		FragOff: h.FragOff, TTL: h.TTL, Protocol: h.Protocol, Checksum: h.Checksum,
		Src: h.Src.String(), Dst: h.Dst.String(), Options: hex.EncodeToString(h.Options),
	}
}

func (c *control) toGo() *ipv4.ControlMessage {
	if c == nil {
		return nil
	}
	return &ipv4.ControlMessage{TTL: c.TTL, Src: net.ParseIP(c.Src), Dst: net.ParseIP(c.Dst), IfIndex: c.IfIndex}
}

func fromControl(cm *ipv4.ControlMessage) *control {
	if cm == nil {
		return nil
	}
	result := &control{TTL: cm.TTL, IfIndex: cm.IfIndex}
	if cm.Src != nil {
		result.Src = cm.Src.String()
	}
	if cm.Dst != nil {
		result.Dst = cm.Dst.String()
	}
	return result
}

func fromHex(digits string) []byte {
	octets, err := hex.DecodeString(digits)
	if err != nil {
		panic(err)
	}
	return octets
}
