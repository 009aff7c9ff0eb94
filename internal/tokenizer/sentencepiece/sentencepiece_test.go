package sentencepiece

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// message builds a protocol buffer.
type message []byte

func (m message) varint(field int, v uint64) message {
	return binary.AppendUvarint(binary.AppendUvarint(m, uint64(field)<<3), v)
}

func (m message) bytes(field int, s []byte) message {
	m = binary.AppendUvarint(m, uint64(field)<<3|wireBytes)
	return append(binary.AppendUvarint(m, uint64(len(s))), s...)
}

func (m message) float(field int, v float32) message {
	m = binary.AppendUvarint(m, uint64(field)<<3|wireFixed32)
	return binary.LittleEndian.AppendUint32(m, math.Float32bits(v))
}

func (m message) piece(s string, score float32, typ Type) message {
	return m.bytes(1, message{}.bytes(1, []byte(s)).float(2, score).varint(3, uint64(typ)))
}

// small is a model of a few pieces.
func small(algorithm Algorithm) message {
	return message{}.piece("<unk>", 0, Unknown).piece("<s>", 0, Control).piece("▁", -1, Normal).piece("a", -2, Normal).
		piece("b", -3, Normal).piece("ab", -0.5, Normal).piece("▁ab", -0.25, Unused).piece("<x>", 0, UserDefined).
		bytes(2, message{}.varint(3, uint64(algorithm)).bytes(99, []byte("later")))
}

func TestSmall(t *testing.T) {
	for algorithm, want := range map[Algorithm][]int32{
		// "▁ab" is unused: BPE makes it and takes it apart again.
		BPE:     {2, 5, 7, 0, 2, 3},
		Unigram: {2, 5, 7, 0, 2, 3},
	} {
		m, err := Parse(small(algorithm))
		require.NoError(t, err)
		seg, err := m.Segmenter()
		require.NoError(t, err)
		n, err := m.Normalizer()
		require.NoError(t, err)
		require.Equal(t, "▁ab<x>zz▁a", n.Normalize("  ab<x>zz  a ", true))
		require.Equal(t, "ab", n.Normalize("ab", false))
		require.Equal(t, "", n.Normalize("   ", true))
		require.Equal(t, want, seg.NewEncoder().Encode(nil, n.Normalize("ab<x>zz a", true), false))
		decode, err := m.Decoder()
		require.NoError(t, err)
		require.Equal(t, "ab<x> \u2047  a", decode([]string{"▁", "ab", "<x>", "<unk>", "▁", "a"}))
	}
}

func TestParseErrors(t *testing.T) {
	unknown := message{}.piece("<unk>", 0, Unknown)
	bytesToo := message{}.varint(35, 1)
	for _, c := range []struct {
		name string
		data message
		want string
	}{
		{"empty", nil, "no pieces"},
		{"tag", message{0}, "bad tag at byte 0"},
		{"field 0", message{2, 0}, "bad tag at byte 0"},
		{"group", message{0x0B}, "field 1 at byte 0: wire type 3 is not supported"},
		{"number", message{0x08, 0xFF}, "field 1 at byte 0: bad number"},
		{"fixed", message{0x0D, 1}, "field 1 at byte 0: cut off"},
		{"length", message{0x0A, 0x05, 1}, "field 1 at byte 0: longer than the data"},
		{"huge length", append(message{0x0A}, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01), "longer than the data"},
		{"piece is a number", message{}.varint(1, 3), "piece 0: piece: wire type 0, want 2"},
		{"trainer_spec is a number", message{}.varint(2, 3), "trainer_spec: wire type 0, want 2"},
		{"model type is a string", message{}.bytes(2, message{}.bytes(3, nil)), "trainer_spec: wire type 2, want 0"},
		{"not UTF-8", message{}.piece("\xff", 0, Normal), `piece 0: piece: "\xff" is not UTF-8`},
		{"empty piece", message{}.piece("", 0, Normal), "piece 0 is empty"},
		{"twice", unknown.piece("a", 0, Normal).piece("a", 0, Normal), `pieces 1 and 2 are both "a"`},
		{"nan", unknown.piece("a", float32(math.NaN()), Normal), `piece 1, "a", has score NaN`},
		{"two unknown", unknown.piece("a", 0, Unknown), "pieces 0 and 1 are both of type unknown"},
		{"no unknown", message{}.piece("a", 0, Normal), "no piece of type unknown"},
		{"type", message{}.piece("a", 0, 9), `piece 0, "a", has type 9, want 1 to 6`},
		{"byte", unknown.piece("<0x00>", 0, Byte), "is of type byte, but byte_fallback is false"},
		{"no bytes", unknown.bytes(2, bytesToo), "there is no piece <0x00> of type byte"},
	} {
		_, err := Parse(c.data)
		require.ErrorContains(t, err, c.want, c.name)
	}
	m, err := Parse(unknown.bytes(2, message{}.varint(3, 3)))
	require.NoError(t, err)
	_, err = m.Segmenter()
	require.ErrorContains(t, err, "model_type word is not supported (supported: BPE, Unigram)")
	m, err = Parse(unknown.bytes(3, message{}.bytes(2, []byte{1, 2, 3})))
	require.NoError(t, err)
	_, err = m.Normalizer()
	require.ErrorContains(t, err, "normalizer_spec: precompiled_charsmap: 3 bytes, want at least 4")
	m, err = Parse(unknown.bytes(5, message{}.bytes(2, []byte{8, 0, 0, 0, 0})))
	require.NoError(t, err)
	_, err = m.Decoder()
	require.ErrorContains(t, err, "denormalizer_spec: precompiled_charsmap: trie of 8 bytes in 1 bytes of data")
	_, err = ParseCharsmap(append([]byte{4, 0, 0, 0, 0, 0, 0, 0}, make([]byte, 99)...))
	require.NoError(t, err)
	_, err = ParseCharsmap(append([]byte{4, 0, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte("x"), maxReplacement+1)...))
	require.ErrorContains(t, err, "a replacement of more than 1024 bytes")
	long := make([]byte, maxPiece+1)
	for i := range long {
		long[i] = 'a'
	}
	m, err = Parse(unknown.piece(string(long), 0, Normal).bytes(2, message{}.varint(3, uint64(BPE))))
	require.NoError(t, err)
	_, err = m.Segmenter()
	require.ErrorContains(t, err, "piece 1 has 1025 bytes, want at most 1024")
}

// TestCharsmap takes the rules "nmt_nfkc" out of a trained model.
func TestCharsmap(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "testdata", "trained", "sentencepiece-unigram-nmt", "tokenizer.model"))
	require.NoError(t, err)
	m, err := Parse(data)
	require.NoError(t, err)
	c, err := ParseCharsmap(m.normalizer.charsmap)
	require.NoError(t, err)
	for in, want := range map[string]string{"ﬁx": "fi", "①": "1", "か\u3099": "が", "\t": " ", "Ａ": "A"} {
		n, out := c.longest(in)
		require.Positive(t, n, in)
		require.Equal(t, want, out, in)
	}
	n, _ := c.longest("x")
	require.Zero(t, n)
	// Of a grapheme only the first rule counts.
	out, atStart := c.ReplaceGraphemes("²\u0301e\u0301\r\n")
	require.Equal(t, "2\u00e9 ", out)
	require.True(t, atStart)
	_, atStart = c.ReplaceGraphemes("\u00ad\u0001x")
	require.True(t, atStart)
	_, atStart = c.ReplaceGraphemes("\u0001x")
	require.False(t, atStart)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(small(BPE)), "ab<x> a")
	f.Add([]byte(small(Unigram).bytes(3, message{}.varint(4, 0).varint(3, 0))), "ab<x> a")
	// One rule, "a" to "b": node 'a' is at the root's offset, its value next to it.
	trie := make([]byte, 4, 4+4*128)
	binary.LittleEndian.PutUint32(trie, 4*128)
	for i := range 128 {
		u := uint32(0)
		switch i {
		case 0:
			u = 0 << 10
		case 'a':
			u = 1<<10 | 1<<8 | 'a'
		case 'a' ^ 1:
			u = 1 << 31
		}
		trie = binary.LittleEndian.AppendUint32(trie, u)
	}
	rules := append(trie, 'b', 0)
	c, err := ParseCharsmap(rules)
	require.NoError(f, err)
	_, out := c.longest("ab")
	require.Equal(f, "b", out)
	f.Add([]byte(small(BPE).bytes(3, message{}.bytes(2, rules)).bytes(5, message{}.bytes(2, rules))), "aab\u0301")
	fallback := small(BPE).bytes(2, message{}.varint(35, 1))
	for b := range 256 {
		fallback = fallback.piece(fmt.Sprintf("<0x%02X>", b), 0, Byte)
	}
	f.Add([]byte(fallback), "é")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		m, err := Parse(data)
		if err != nil || !utf8.ValidString(text) {
			return
		}
		seg, err := m.Segmenter()
		if err != nil {
			return
		}
		n, err := m.Normalizer()
		if err != nil {
			return
		}
		decode, err := m.Decoder()
		if err != nil {
			return
		}
		s := n.Normalize(text, true)
		ids := seg.NewEncoder().Encode(nil, s, false)
		tokens := make([]string, len(ids))
		for i, id := range ids {
			token, ok := seg.Vocab().Token(id)
			if !ok {
				t.Fatalf("id %d is no token", id)
			}
			tokens[i] = token
		}
		decode(tokens)
		n.rules.ReplaceGraphemes(text)
	})
}
