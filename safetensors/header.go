package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxHeader    = 100_000_000 // the reference implementation's cap
	lengthSize   = 8
	metadataName = "__metadata__"
)

// header is what the JSON object at the start of a file says, checked.
type header struct {
	tensors   []TensorInfo // in order of their data
	metadata  map[string]string
	dataStart int64 // where the data begins in the file
}

// readHeader reads and checks the header of a file of size bytes.
func readHeader(r io.ReaderAt, size int64, file string) (*header, error) {
	if size < lengthSize {
		return nil, fileErrorf(ErrInvalid, file, "truncated: %d bytes, a header length alone takes %d", size, lengthSize)
	}
	var length [lengthSize]byte
	if err := readFull(r, length[:], 0); err != nil {
		return nil, fileErrorf(err, file, "reading the header length: %v", err)
	}
	n := binary.LittleEndian.Uint64(length[:])
	if string(length[:]) == "version " && size < 1024 {
		return nil, fileErrorf(ErrInvalid, file, "a Git LFS pointer, not the file itself: fetch it with git lfs pull")
	}
	if n > maxHeader {
		return nil, fileErrorf(ErrInvalid, file, "header too large: %d bytes, at most %d are allowed", n, maxHeader)
	}
	if int64(n) > size-lengthSize {
		return nil, fileErrorf(ErrInvalid, file, "truncated: header of %d bytes in a file of %d", n, size)
	}
	text := make([]byte, n)
	if err := readFull(r, text, lengthSize); err != nil {
		return nil, fileErrorf(err, file, "reading the header: %v", err)
	}
	h, err := parseHeader(text, file)
	if err != nil {
		return nil, err
	}
	h.dataStart = lengthSize + int64(n)
	if err := checkLayout(h.tensors, size-h.dataStart, file); err != nil {
		return nil, err
	}
	return h, nil
}

// parseHeader decodes the JSON text and checks every tensor by itself.
func parseHeader(text []byte, file string) (*header, error) {
	dec, err := openObject(text)
	if err != nil {
		return nil, fileErrorf(ErrInvalid, file, "header %v", err)
	}
	h := &header{}
	base := baseName(file)
	err = eachKey(dec, func(name string) error {
		if name == metadataName {
			h.metadata, err = parseStrings(dec)
			return wrapKey(err, metadataName)
		}
		t, err := parseTensor(dec)
		if err != nil {
			return tensorErrorf(ErrInvalid, file, name, "%v", err)
		}
		t.Name, t.File = name, base
		h.tensors = append(h.tensors, t)
		return nil
	})
	if err == nil {
		return h, nil
	}
	if _, ok := err.(*fileError); ok {
		return nil, err
	}
	return nil, fileErrorf(ErrInvalid, file, "header: %v", err)
}

// maxDims is the largest number of dimensions that NumPy and PyTorch have.
const maxDims = 64

// parseTensor decodes {"dtype":…,"shape":…,"data_offsets":…}. Further keys are
// skipped, as the reference does.
func parseTensor(dec *json.Decoder) (TensorInfo, error) {
	var t TensorInfo
	var offsets []int64
	var hasType, hasShape, hasOffsets bool
	err := eachKey(dec, func(key string) (err error) {
		switch key {
		case "dtype":
			hasType = true
			var s string
			s, err = readString(dec)
			t.DType = DType(s)
		case "shape":
			hasShape = true
			var dims []int64
			dims, err = readNumbers(dec, strconv.IntSize-1)
			if len(dims) > maxDims {
				return fmt.Errorf("shape: %d dimensions, at most %d are allowed", len(dims), maxDims)
			}
			t.Shape = make([]int, len(dims))
			for i, d := range dims {
				t.Shape[i] = int(d)
			}
		case "data_offsets":
			hasOffsets = true
			offsets, err = readNumbers(dec, 63)
		default:
			var skip json.RawMessage
			err = dec.Decode(&skip)
		}
		return wrapKey(err, key)
	})
	switch {
	case err != nil:
		return t, err
	case !hasType:
		return t, fmt.Errorf("no dtype")
	case !hasShape:
		return t, fmt.Errorf("no shape")
	case !hasOffsets:
		return t, fmt.Errorf("no data_offsets")
	case len(offsets) != 2:
		return t, fmt.Errorf("data_offsets hold %d numbers, want 2", len(offsets))
	}
	t.Begin, t.End = offsets[0], offsets[1]
	size, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return t, err
	}
	if t.Begin > t.End {
		return t, fmt.Errorf("data_offsets [%d %d] end before they begin", t.Begin, t.End)
	}
	if t.End-t.Begin != size {
		return t, fmt.Errorf("data_offsets [%d %d] hold %d bytes, shape %s of %s takes %d",
			t.Begin, t.End, t.End-t.Begin, shapeText(t.Shape), t.DType, size)
	}
	return t, nil
}

// checkLayout sorts the tensors by their data and checks that they fill exactly
// dataSize bytes.
func checkLayout(tensors []TensorInfo, dataSize int64, file string) error {
	for _, t := range tensors {
		if t.End > dataSize {
			return tensorErrorf(ErrInvalid, file, t.Name, "truncated: data_offsets [%d %d], the file has %d bytes of data", t.Begin, t.End, dataSize)
		}
	}
	// The end orders an empty tensor before one that begins at the same byte.
	slices.SortStableFunc(tensors, func(a, b TensorInfo) int {
		return cmp.Or(cmp.Compare(a.Begin, b.Begin), cmp.Compare(a.End, b.End))
	})
	pos := int64(0)
	for i, t := range tensors {
		if t.Begin > pos {
			return tensorErrorf(ErrInvalid, file, t.Name, "hole: begins at %d, bytes from %d on belong to no tensor", t.Begin, pos)
		}
		if t.Begin < pos {
			return tensorErrorf(ErrInvalid, file, t.Name, "overlap: begins at %d inside tensor %s, which ends at %d",
				t.Begin, nameText(tensors[i-1].Name), pos)
		}
		pos = t.End
	}
	if pos != dataSize {
		return fileErrorf(ErrInvalid, file, "the tensors end at %d, the file has %d bytes of data", pos, dataSize)
	}
	return nil
}

// openObject checks that text is valid UTF-8 and one JSON object, and returns a
// decoder standing before it.
func openObject(text []byte) (*json.Decoder, error) {
	if len(text) == 0 || text[0] != '{' {
		return nil, fmt.Errorf("is not a JSON object: it does not start with '{'")
	}
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("is not valid UTF-8")
	}
	if !json.Valid(text) {
		return nil, fmt.Errorf("is not valid JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return dec, nil
}

// eachKey calls f for every key of the object that comes next; f reads the
// value. encoding/json would let the last of two equal keys win; here it is an error.
func eachKey(dec *json.Decoder, f func(key string) error) error {
	if err := expect(dec, '{', "an object"); err != nil {
		return err
	}
	seen := map[string]struct{}{}
	for dec.More() {
		key, err := readString(dec)
		if err != nil {
			return err
		}
		if _, ok := seen[key]; ok {
			return fmt.Errorf("duplicate key %s", nameText(key))
		}
		seen[key] = struct{}{}
		if err := f(key); err != nil {
			return err
		}
	}
	return expect(dec, '}', "the object's end")
}

func expect(dec *json.Decoder, d json.Delim, what string) error {
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	if tok != d {
		return fmt.Errorf("is %s, want %s", tokenText(tok), what)
	}
	return nil
}

func readString(dec *json.Decoder) (string, error) {
	tok, err := dec.Token()
	if err != nil {
		return "", err
	}
	s, ok := tok.(string)
	if !ok {
		return "", fmt.Errorf("is %s, want a string", tokenText(tok))
	}
	return s, nil
}

// readNumbers reads an array of integers from 0 to 2^width-1.
func readNumbers(dec *json.Decoder, width int) ([]int64, error) {
	if err := expect(dec, '[', "an array"); err != nil {
		return nil, err
	}
	var out []int64
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		number, ok := tok.(json.Number)
		if !ok {
			return nil, fmt.Errorf("holds %s, want integers", tokenText(tok))
		}
		n, err := strconv.ParseUint(number.String(), 10, width)
		if err != nil {
			return nil, fmt.Errorf("holds %s, want integers from 0 to 2^%d-1", tokenText(tok), width)
		}
		out = append(out, int64(n))
	}
	return out, expect(dec, ']', "the array's end")
}

// parseStrings reads a map of strings to strings, or null.
func parseStrings(dec *json.Decoder) (map[string]string, error) {
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return nil, err
	}
	if string(raw) == "null" {
		return nil, nil
	}
	out := map[string]string{}
	sub := json.NewDecoder(bytes.NewReader(raw))
	sub.UseNumber()
	err := eachKey(sub, func(key string) (err error) {
		out[key], err = readString(sub)
		return wrapKey(err, key)
	})
	return out, err
}

// wrapKey says which key an error is about.
func wrapKey(err error, key string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", strings.Trim(nameText(key), `"`), err)
}

func tokenText(tok json.Token) string {
	switch v := tok.(type) {
	case nil:
		return "null"
	case string:
		return nameText(v)
	case json.Delim:
		return "'" + v.String() + "'"
	case json.Number:
		if len(v) > 40 {
			return string(v[:40]) + "..."
		}
	}
	return fmt.Sprint(tok)
}

// baseName is the part after the last separator of either kind, so that texts
// are the same on every system.
func baseName(file string) string {
	return file[strings.LastIndexAny(file, `/\`)+1:]
}

// readFull fills p; a file that ends early is io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
