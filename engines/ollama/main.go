// Command ollama has Ollama's own parser read GGUF files, in a version whose
// server cannot be built from the module alone, and prints what it found of each as a
// line of JSON.
//
//	go run . FILE...
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/ollama/ollama/fs/ggml"
	"github.com/ollama/ollama/template"
)

// tensor is one of a file: its size in bytes, and where its data begins behind that of
// the first.
type tensor struct {
	Name   string   `json:"name"`
	Kind   uint32   `json:"kind"` // enum ggml_type of ggml.h
	Shape  []uint64 `json:"shape"`
	Bytes  uint64   `json:"bytes"`
	Offset uint64   `json:"offset"`
}

// file is what is found in one.
type file struct {
	Version      string   `json:"version"` // of Ollama
	Architecture string   `json:"architecture"`
	FileType     string   `json:"file_type"`
	Parameters   uint64   `json:"parameters"`
	Keys         []string `json:"keys"`
	Template     string   `json:"template"` // its name for the chat template
	Tensors      []tensor `json:"tensors"`
	Length       int64    `json:"length"` // where the last tensor ends
	Error        string   `json:"error"`
}

func read(path string) (f file, err error) {
	in, err := os.Open(path)
	if err != nil {
		return f, err
	}
	defer in.Close()
	g, err := ggml.Decode(in, -1)
	if err != nil {
		return f, err
	}
	kv := g.KV()
	f.Architecture, f.FileType, f.Parameters, f.Length = kv.Architecture(), kv.FileType().String(), kv.ParameterCount(), g.Length
	f.Keys = slices.Sorted(kv.Keys())
	if t, err := template.Named(kv.ChatTemplate()); err == nil {
		f.Template = t.Name
	}
	for _, t := range g.Tensors().Items() {
		f.Tensors = append(f.Tensors, tensor{t.Name, t.Kind, t.Shape, t.Size(), t.Offset})
	}
	return f, nil
}

// version is that of the module with the parser.
func version() string {
	info, _ := debug.ReadBuildInfo()
	for _, m := range info.Deps {
		if m.Path == "github.com/ollama/ollama" {
			return strings.TrimPrefix(m.Version, "v")
		}
	}
	return ""
}

func main() {
	for _, path := range os.Args[1:] {
		f, err := read(path)
		if err != nil {
			f.Error = err.Error()
		}
		f.Version = version()
		line, err := json.Marshal(f)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(string(line))
	}
}
