// Package arch has the architectures: it reads a config.json and makes of it a
// decoder.Model.
//
// An architecture is one file: its names in config.json, the keys it reads, and
// the program of a block, put together with a builder (see dense/llama.go). Where
// llama.cpp has the architecture the same file has its names there. A new one is a
// file in one of the families (dense, mixture, recurrent), its
// name in the list of the family, and a tiny model in testdata/architectures.
package arch

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/decoder/arch/dense"
	"github.com/golowbit/lowbit/internal/decoder/arch/mixture"
	"github.com/golowbit/lowbit/internal/decoder/arch/recurrent"
	"github.com/golowbit/lowbit/internal/decoder/arch/spec"
	"github.com/golowbit/lowbit/internal/program"
)

// architectures lists all that can be run.
func architectures() []*spec.Architecture {
	return slices.Concat(dense.Architectures(), mixture.Architectures(), recurrent.Architectures())
}

// WithGGUF lists the architectures that llama.cpp has.
func WithGGUF() []*spec.Architecture {
	var all []*spec.Architecture
	for _, a := range architectures() {
		if a.GGUF != nil {
			all = append(all, a)
		}
	}
	return all
}

// Supported lists the classes of all architectures that can be run.
func Supported() []string {
	var all []string
	for _, a := range architectures() {
		all = append(all, a.Classes...)
	}
	return all
}

// ParseConfig reads the content of a config.json as Hugging Face transformers
// writes it, versions 4 and 5. Errors name the key. An architecture, rope
// type or activation that is not supported gives an error that wraps
// ErrUnsupported and lists what is.
func ParseConfig(data []byte) (*decoder.Model, error) {
	f, err := spec.ParseFields(spec.NonFinite(data), "")
	if err != nil {
		return nil, err
	}
	m := &decoder.Model{Config: decoder.Config{BOS: -1, Names: decoder.PlainNames()}}
	a, err := architectureOf(f)
	if err != nil {
		return nil, err
	}
	c := &m.Config
	c.ModelType, m.GGUF = a.Type, a.GGUF
	block := a.Read(f, c)
	m.Read = f.Seen
	if t, _ := m.Value("model_type").(string); a.GGUF != nil && a.GGUF.Inner[t] != nil {
		m.GGUF = a.GGUF.Inner[t]
	}
	if f.Err != nil {
		return nil, f.Err
	}
	if err := build(m, block); err != nil {
		return nil, err
	}
	return m, nil
}

// build validates the configuration and puts the blocks together.
func build(m *decoder.Model, block func(*spec.Builder)) error {
	c := &m.Config
	if err := c.Validate(); err != nil {
		return err
	}
	for i := range c.Layers {
		b := &spec.Builder{Builder: program.NewBuilder(i, c.BlockPrefix(i), c.Hidden, c.NormEps), Config: c}
		block(b)
		p, err := b.Finish()
		if err != nil {
			return err
		}
		m.Blocks = append(m.Blocks, p)
	}
	return nil
}

func architectureOf(f *spec.Fields) (*spec.Architecture, error) {
	stated := f.Str("model_type", "")
	list := f.Strs("architectures")
	if f.Err != nil {
		return nil, f.Err
	}
	if stated == "" && len(list) == 0 {
		return nil, errors.New(`neither "model_type" nor "architectures" is given`)
	}
	if len(list) > 1 {
		return nil, fmt.Errorf(`"architectures": %d entries, want one`, len(list))
	}
	all := architectures()
	if len(list) == 1 {
		i := slices.IndexFunc(all, func(a *spec.Architecture) bool { return a.IsClass(list[0]) })
		if i < 0 {
			return nil, fmt.Errorf(`"architectures": %q is %w (supported: %s)`, list[0], decoder.ErrUnsupported, strings.Join(Supported(), ", "))
		}
		if stated != "" && !all[i].IsType(stated) {
			return nil, fmt.Errorf(`"model_type" %q contradicts "architectures" %q`, stated, list[0])
		}
		return all[i], nil
	}
	var types []string
	for _, a := range all {
		if a.IsType(stated) {
			return a, nil
		}
		types = append(types, a.Type)
	}
	return nil, fmt.Errorf(`"model_type": %q is %w (supported: %s)`, stated, decoder.ErrUnsupported, strings.Join(types, ", "))
}
