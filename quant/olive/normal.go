package olive

import (
	"github.com/golowbit/lowbit/internal/enum"
	"github.com/golowbit/lowbit/quant"
)

// Normal is what the values of a group are that are no outliers. Its text is "adaptive", "int"
// or "flint".
type Normal uint8

const (
	// Adaptive takes for each group the one with the lesser error (the paper, after ANT, for each
	// tensor). At 8 bits it is Int.
	Adaptive Normal = iota
	// Int is -7 … 7, or -127 … 127.
	Int
	// Flint is flint4: 0, ±1, ±2, ±3, ±4, ±6, ±8, ±16.
	Flint
)

var normals = enum.New[Normal]("Normal", "normal values", quant.ErrScheme, "adaptive", "int", "flint")

// String returns the text.
func (n Normal) String() string { return normals.String(n) }

// MarshalText implements encoding.TextMarshaler.
func (n Normal) MarshalText() ([]byte, error) { return normals.Marshal(n) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Normal) UnmarshalText(text []byte) error { return normals.Unmarshal(n, text) }

// ParseNormal reads "adaptive", "int" or "flint". Errors wrap quant.ErrScheme.
func ParseNormal(s string) (Normal, error) { return normals.Parse(s) }
