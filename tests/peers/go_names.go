// Prints every exported name of golang.org/x/net/ipv4: constants, functions, types, their fields and methods, promoted
// methods included. One name a line, sorted: `tests/go_names.txt` is its output.
package main

import (
	"fmt"
	"go/importer"
	"go/token"
	"go/types"
	"os"
	"sort"
)

func main() {
	ipv4, err := importer.ForCompiler(token.NewFileSet(), "source", nil).Import("golang.org/x/net/ipv4")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var names []string
	for _, name := range ipv4.Scope().Names() {
		object := ipv4.Scope().Lookup(name)
		if !object.Exported() {
			continue
		}
		names = append(names, name)
		if _, isType := object.(*types.TypeName); isType {
			names = append(names, members(name, object.Type())...)
		}
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Println(name)
	}
}

func members(name string, of types.Type) []string {
	var names []string
	if fields, isStruct := of.Underlying().(*types.Struct); isStruct {
		for i := 0; i < fields.NumFields(); i++ {
			if field := fields.Field(i); field.Exported() && !field.Embedded() {
				names = append(names, name+"."+field.Name())
			}
		}
	}
	methods := types.NewMethodSet(types.NewPointer(of))
	for i := 0; i < methods.Len(); i++ {
		if method := methods.At(i).Obj(); method.Exported() {
			names = append(names, name+"."+method.Name())
		}
	}
	return names
}
