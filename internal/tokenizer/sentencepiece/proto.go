// Package sentencepiece reads the models of SentencePiece (tokenizer.model) and
// does what is particular to them: the normalization of text and the order in
// which pieces merge.
package sentencepiece

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Algorithm is how a model cuts text into pieces.
type Algorithm int32

// The numbers are those of trainer_spec.model_type.
const (
	Unigram Algorithm = 1
	BPE     Algorithm = 2
	Word    Algorithm = 3
	Char    Algorithm = 4
)

func (a Algorithm) String() string {
	switch a {
	case Unigram:
		return "Unigram"
	case BPE:
		return "BPE"
	case Word:
		return "word"
	case Char:
		return "character"
	}
	return fmt.Sprintf("number %d", int32(a))
}

// Type is what a piece is for.
type Type int32

// The numbers are those of SentencePiece.type.
const (
	Normal      Type = 1
	Unknown     Type = 2
	Control     Type = 3
	UserDefined Type = 4
	Unused      Type = 5
	Byte        Type = 6
)

// Piece is one entry of the vocabulary; its id is its place.
type Piece struct {
	Text  string
	Score float32
	Type  Type
}

// Model is a ModelProto of sentencepiece_model.proto, as far as it matters for
// encoding and decoding.
type Model struct {
	Pieces    []Piece
	Algorithm Algorithm

	ByteFallback   bool
	SpaceAsSuffix  bool // treat_whitespace_as_suffix
	UnknownSurface string

	// Names of the special pieces; a piece of that name need not exist.
	BOS, EOS, Pad string

	normalizer   spec
	denormalizer spec
	unknown      int32
}

// spec is a NormalizerSpec.
type spec struct {
	charsmap       []byte
	addDummyPrefix bool
	removeExtra    bool
	escapeSpace    bool
}

func defaultSpec() spec { return spec{addDummyPrefix: true, removeExtra: true, escapeSpace: true} }

// UnknownID is the id of the one piece of type Unknown.
func (m *Model) UnknownID() int32 { return m.unknown }

// Parse reads a serialized ModelProto and checks that it is complete.
func Parse(data []byte) (*Model, error) {
	m := &Model{
		Algorithm: Unigram, UnknownSurface: " \u2047 ", BOS: "<s>", EOS: "</s>", Pad: "<pad>",
		normalizer: defaultSpec(), denormalizer: defaultSpec(),
	}
	err := fields(data, func(number int, v value) error {
		switch number {
		case 1:
			p, err := parsePiece(v)
			if err != nil {
				return fmt.Errorf("piece %d: %w", len(m.Pieces), err)
			}
			m.Pieces = append(m.Pieces, p)
			return nil
		case 2:
			return within("trainer_spec", v, m.trainerField)
		case 3:
			return within("normalizer_spec", v, m.normalizer.field)
		case 5:
			return within("denormalizer_spec", v, m.denormalizer.field)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("not a SentencePiece model: %w", err)
	}
	return m, m.check()
}

func within(name string, v value, field func(number int, v value) error) error {
	var data []byte
	if err := v.bytes(&data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := fields(data, field); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func parsePiece(v value) (Piece, error) {
	p := Piece{Type: Normal}
	err := within("piece", v, func(number int, v value) error {
		switch number {
		case 1:
			return v.text(&p.Text)
		case 2:
			return v.float(&p.Score)
		case 3:
			return v.number((*int32)(&p.Type))
		}
		return nil
	})
	return p, err
}

func (m *Model) trainerField(number int, v value) error {
	switch number {
	case 3:
		return v.number((*int32)(&m.Algorithm))
	case 24:
		return v.flag(&m.SpaceAsSuffix)
	case 35:
		return v.flag(&m.ByteFallback)
	case 44:
		return v.text(&m.UnknownSurface)
	case 46:
		return v.text(&m.BOS)
	case 47:
		return v.text(&m.EOS)
	case 48:
		return v.text(&m.Pad)
	}
	return nil
}

func (s *spec) field(number int, v value) error {
	switch number {
	case 2:
		return v.bytes(&s.charsmap)
	case 3:
		return v.flag(&s.addDummyPrefix)
	case 4:
		return v.flag(&s.removeExtra)
	case 5:
		return v.flag(&s.escapeSpace)
	}
	return nil
}

// check holds the model to what SentencePiece itself demands of one.
func (m *Model) check() error {
	if len(m.Pieces) == 0 {
		return errors.New("no pieces")
	}
	m.unknown = -1
	seen := make(map[string]int, len(m.Pieces))
	for id, p := range m.Pieces {
		if p.Text == "" {
			return fmt.Errorf("piece %d is empty", id)
		}
		if first, ok := seen[p.Text]; ok {
			return fmt.Errorf("pieces %d and %d are both %q", first, id, p.Text)
		}
		seen[p.Text] = id
		if s := float64(p.Score); math.IsNaN(s) || math.IsInf(s, 0) {
			return fmt.Errorf("piece %d, %q, has score %g", id, p.Text, s)
		}
		switch p.Type {
		case Unknown:
			if m.unknown >= 0 {
				return fmt.Errorf("pieces %d and %d are both of type unknown", m.unknown, id)
			}
			m.unknown = int32(id)
		case Normal, Control, UserDefined, Unused:
		case Byte:
			if !m.ByteFallback {
				return fmt.Errorf("piece %d, %q, is of type byte, but byte_fallback is false", id, p.Text)
			}
		default:
			return fmt.Errorf("piece %d, %q, has type %d, want 1 to 6", id, p.Text, p.Type)
		}
	}
	if m.unknown < 0 {
		return errors.New("no piece of type unknown")
	}
	for b := 0; m.ByteFallback && b < 256; b++ {
		name := fmt.Sprintf("<0x%02X>", b)
		if id, ok := seen[name]; !ok || m.Pieces[id].Type != Byte {
			return fmt.Errorf("byte_fallback is true, but there is no piece %s of type byte", name)
		}
	}
	return nil
}

// value is one field of a protocol buffer: a number, or what a length stands before.
type value struct {
	wire int
	n    uint64
	data []byte
}

const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
	wireFixed32 = 5
)

func (v value) want(wire int) error {
	if v.wire != wire {
		return fmt.Errorf("wire type %d, want %d", v.wire, wire)
	}
	return nil
}

func (v value) bytes(dst *[]byte) error {
	*dst = v.data
	return v.want(wireBytes)
}

func (v value) text(dst *string) error {
	if *dst = string(v.data); !utf8.ValidString(*dst) {
		return fmt.Errorf("%q is not UTF-8", *dst)
	}
	return v.want(wireBytes)
}

func (v value) float(dst *float32) error {
	*dst = math.Float32frombits(uint32(v.n))
	return v.want(wireFixed32)
}

func (v value) number(dst *int32) error {
	*dst = int32(v.n)
	return v.want(wireVarint)
}

func (v value) flag(dst *bool) error {
	*dst = v.n != 0
	return v.want(wireVarint)
}

// fields calls f with every field of a message (protobuf.dev, "Encoding").
func fields(data []byte, f func(number int, v value) error) error {
	for at := 0; at < len(data); {
		tag, n := binary.Uvarint(data[at:])
		if n <= 0 || tag>>3 == 0 || tag>>3 > 1<<29-1 {
			return fmt.Errorf("bad tag at byte %d", at)
		}
		start := at
		at += n
		v := value{wire: int(tag & 7)}
		switch v.wire {
		case wireVarint:
			if v.n, n = binary.Uvarint(data[at:]); n <= 0 {
				return fmt.Errorf("field %d at byte %d: bad number", tag>>3, start)
			}
			at += n
		case wireFixed64, wireFixed32:
			n = 4
			if v.wire == wireFixed64 {
				n = 8
			}
			if len(data)-at < n {
				return fmt.Errorf("field %d at byte %d: cut off", tag>>3, start)
			}
			if v.n = uint64(binary.LittleEndian.Uint32(data[at:])); n == 8 {
				v.n = binary.LittleEndian.Uint64(data[at:])
			}
			at += n
		case wireBytes:
			size, n := binary.Uvarint(data[at:])
			if n <= 0 || size > uint64(len(data)-at-n) {
				return fmt.Errorf("field %d at byte %d: longer than the data", tag>>3, start)
			}
			at += n
			v.data = data[at : at+int(size)]
			at += int(size)
		default:
			return fmt.Errorf("field %d at byte %d: wire type %d is not supported", tag>>3, start, v.wire)
		}
		if err := f(int(tag>>3), v); err != nil {
			return err
		}
	}
	return nil
}
