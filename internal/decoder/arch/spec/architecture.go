// Package spec is what architectures are written with: the keys of a config.json
// that many share, and parts of blocks.
package spec

import (
	"slices"
	"strings"

	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/program"
)

// Architecture is one kind of model. It is put together in a file of its own.
type Architecture struct {
	Classes []string // entries of "architectures" in config.json
	Type    string   // "model_type"
	// OtherTypes are names that "model_type" has beside Type.
	OtherTypes []string
	// Read sets the configuration from config.json and returns what builds a
	// block. It is called before the configuration is validated, the builder after.
	Read func(f *Fields, c *decoder.Config) func(b *Builder)
	// GGUF is what llama.cpp calls things, nil if it does not have the
	// architecture.
	GGUF *decoder.GGUF
}

// IsType tells whether a "model_type" is that of the architecture.
func (a *Architecture) IsType(modelType string) bool {
	return a.Type == modelType || slices.Contains(a.OtherTypes, modelType)
}

// IsClass tells whether a class is of the architecture: one of its own, or that of its
// model without a head, which has one if the embeddings are tied.
func (a *Architecture) IsClass(class string) bool {
	return slices.ContainsFunc(a.Classes, func(c string) bool {
		base, ok := strings.CutSuffix(c, "ForCausalLM")
		return class == c || ok && class == base+"Model"
	})
}

// Builder puts a block of a model together.
type Builder struct {
	*program.Builder
	Config *decoder.Config
}
