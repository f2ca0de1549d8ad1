// Go's golang.org/x/net/ipv4, as its documentation shows it. See protocol.md for the lines on standard input and output.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
)

const (
	maxBatch = 1024
	maxBytes = 2048
	flags    = ipv4.FlagTTL | ipv4.FlagDst | ipv4.FlagInterface
	// asm-generic/socket.h; package syscall has it too, but not for every architecture.
	soRcvBufForce = 33
)

// What ReadFrom returns, for ReadBatch.
type datagram struct {
	payload []byte
	peer    net.Addr
	control *ipv4.ControlMessage
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func cpu() int64 {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func readBatch(conn *ipv4.PacketConn, messages []ipv4.Message, into []datagram, count, limit int) (int, datagram) {
	received, last := 0, datagram{}
	for received < count && len(last.payload) != 1 {
		most := limit
		if count-received < most {
			most = count - received
		}
		got, err := conn.ReadBatch(messages[:most], 0)
		check(err)
		for i := 0; i < got; i++ {
			message := &messages[i]
			control := new(ipv4.ControlMessage)
			check(control.Parse(message.OOB[:message.NN]))
			payload := append([]byte(nil), message.Buffers[0][:message.N]...)
			into[i] = datagram{payload, message.Addr, control}
		}
		received += got
		last = into[got-1]
	}
	return received, last
}

func readFrom(conn *ipv4.PacketConn, buffer []byte, count int) (int, datagram) {
	received, last := 0, datagram{}
	for ; received < count && len(last.payload) != 1; received++ {
		n, control, peer, err := conn.ReadFrom(buffer)
		check(err)
		last = datagram{append([]byte(nil), buffer[:n]...), peer, control}
	}
	return received, last
}

func writeBatch(conn *ipv4.PacketConn, messages []ipv4.Message, payload []byte, to net.Addr, count, limit int) {
	for sent := 0; sent < count; {
		most := limit
		if count-sent < most {
			most = count - sent
		}
		for i := 0; i < most; i++ {
			control := ipv4.ControlMessage{TTL: 7}
			messages[i] = ipv4.Message{Buffers: [][]byte{payload}, OOB: control.Marshal(), Addr: to}
		}
		got, err := conn.WriteBatch(messages[:most], 0)
		check(err)
		sent += got
	}
}

func writeTo(conn *ipv4.PacketConn, payload []byte, to net.Addr, count int) {
	for i := 0; i < count; i++ {
		_, err := conn.WriteTo(payload, &ipv4.ControlMessage{TTL: 7}, to)
		check(err)
	}
}

func main() {
	batches := os.Args[1] == "batch"
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{})
	check(err)
	raw, err := udp.SyscallConn()
	check(err)
	check(raw.Control(func(descriptor uintptr) {
		if os.Args[2] == "flow" {
			return
		}
		if syscall.SetsockoptInt(int(descriptor), syscall.SOL_SOCKET, soRcvBufForce, 16<<20) != nil {
			syscall.SetsockoptInt(int(descriptor), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 16<<20)
		}
	}))
	conn := ipv4.NewPacketConn(udp)
	check(conn.SetControlMessage(flags, true))
	messages := make([]ipv4.Message, maxBatch)
	for i := range messages {
		messages[i].Buffers = [][]byte{make([]byte, maxBytes)}
		messages[i].OOB = ipv4.NewControlMessage(flags)
	}
	outgoing := make([]ipv4.Message, maxBatch)
	into := make([]datagram, maxBatch)
	buffer := make([]byte, maxBytes)
	fmt.Println("ready", udp.LocalAddr().(*net.UDPAddr).Port)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var command, address string
		var count, limit, length, port int
		fmt.Sscan(lines.Text(), &command, &count, &limit, &length, &address, &port)
		if limit > maxBatch {
			limit = maxBatch
		}
		last := datagram{control: &ipv4.ControlMessage{}}
		payload := make([]byte, length)
		to := &net.UDPAddr{IP: net.ParseIP(address), Port: port}
		wall, busy := time.Now(), cpu()
		switch {
		case command == "drain" && batches:
			count, last = readBatch(conn, messages, into, count, limit)
		case command == "drain":
			count, last = readFrom(conn, buffer, count)
		case command == "send" && batches:
			writeBatch(conn, outgoing, payload, to, count, limit)
		case command == "send":
			writeTo(conn, payload, to, count)
		}
		elapsed, busy := time.Since(wall).Nanoseconds(), cpu()-busy
		fmt.Println("ok", elapsed, busy, count, len(last.payload), last.control.TTL, last.control.IfIndex)
	}
}
