package fitting

import (
	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/decoder/arch"
	"github.com/golowbit/lowbit/internal/places"
	"github.com/golowbit/lowbit/internal/program"
)

// PartOf is where a layer lies in stored tensors; ok is false if it is a tensor
// of its own.
func PartOf(src *checkpoint.Model, l program.LinearInfo) (p checkpoint.Part, ok bool) {
	stored, ok := places.Of(src, l)
	return checkpoint.Part(stored), ok
}

// Parts are the places of layers that a model holds under their own names and its architecture
// stores elsewhere; nil where no decoder knows it.
func Parts(src *checkpoint.Model) []checkpoint.Part {
	m, err := arch.Open(src)
	if err != nil {
		return nil
	}
	// Fitted to the files a decoder forgets where the layers were.
	stored, err := arch.ParseConfig(src.Config())
	if err != nil {
		return nil
	}
	var parts []checkpoint.Part
	for _, p := range places.Elsewhere(src, stored, m) {
		parts = append(parts, checkpoint.Part(p))
	}
	return parts
}
