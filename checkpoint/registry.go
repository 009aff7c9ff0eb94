package checkpoint

import (
	"fmt"

	"github.com/golowbit/lowbit/checkpoint/formats/autoawq"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/bitsandbytes"
	"github.com/golowbit/lowbit/checkpoint/formats/compressed"
	"github.com/golowbit/lowbit/checkpoint/formats/dense"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/hqq"
	"github.com/golowbit/lowbit/checkpoint/formats/mlx"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

// Formats lists every format in the order in which they are tried and shown.
// A new one is added here. The list is built on each call, so that nothing is
// registered at start-up.
func Formats() []layout.Format {
	return []layout.Format{
		native.Format{},
		dense.Format{},
		autogptq.Format{},
		autogptq.Format{Version: 1},
		autogptq.Format{Version: 2},
		compressed.Format{},
		autoawq.Format{},
		hqq.Format{},
		ggufmodel.Format{},
		mlx.Format{},
		bitsandbytes.Format{},
	}
}

// Lookup finds a format by name, among those of Formats and the extra ones.
func Lookup(name string, extra ...layout.Format) (layout.Format, error) {
	var names []string
	for _, f := range withExtra(extra) {
		if f.Name() == name {
			return f, nil
		}
		names = append(names, f.Name())
	}
	return nil, fmt.Errorf("unknown checkpoint format %q: want one of %v", name, names)
}

// withExtra lists formats in the order in which they are tried: the caller's
// come first.
func withExtra(extra []layout.Format) []layout.Format {
	return append(append([]layout.Format(nil), extra...), Formats()...)
}
