package text

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/golowbit/lowbit/internal/disk"
)

// The first bytes of what is not text.
var (
	magicGzip    = []byte{0x1f, 0x8b}
	magicZstd    = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicParquet = []byte("PAR1")
)

// extensions are those of the files in a folder that are read, with .gz or .zst behind
// them or not.
var extensions = []string{".txt", ".text", ".json", ".jsonl", ".ndjson", ".parquet"}

// folder lists the texts in a folder and those below it, by name. Hidden files, and
// what the hub's datasets say of themselves, are none.
func folder(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name := d.Name()
		switch {
		case err != nil:
			return err
		case path != dir && strings.HasPrefix(name, "."):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		case d.IsDir() || name == "dataset_info.json" || name == "dataset_infos.json":
			return nil
		}
		if slices.Contains(extensions, strings.ToLower(filepath.Ext(unpackedName(name)))) {
			names = append(names, path)
		}
		return nil
	})
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("%s: a folder without texts (%s, with .gz or .zst behind it or not)", dir, strings.Join(extensions, ", "))
	}
	return names, err
}

// unpackedName is a name without the ending of a packed file.
func unpackedName(name string) string {
	for _, ext := range []string{".gz", ".zst", ".zstd"} {
		if strings.HasSuffix(strings.ToLower(name), ext) {
			return name[:len(name)-len(ext)]
		}
	}
	return name
}

// file reads a file or folder.
func (s Source) file(name string) ([]Passage, error) {
	if name == "/dev/stdin" { // often a pipe
		return s.reader(name, os.Stdin)
	}
	st, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.IsDir() {
		names, err := folder(name)
		var all []Passage
		for _, name := range names {
			p, err := s.file(name)
			if err != nil {
				return nil, err
			}
			all = append(all, p...)
		}
		return all, err
	}
	if err := disk.Regular(name); err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st.Size() > s.limit() {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, disk.ErrTooLarge, s.limit())
	}
	if begins(f, magicParquet) {
		return s.table(name, f, st.Size())
	}
	data, err := disk.ReadFile(name, s.limit())
	if err != nil {
		return nil, err
	}
	return s.content(name, data)
}

func begins(r io.ReaderAt, magic []byte) bool {
	b := make([]byte, len(magic))
	_, err := r.ReadAt(b, 0)
	return err == nil && bytes.Equal(b, magic)
}

func (s Source) reader(name string, r io.Reader) ([]Passage, error) {
	data, err := disk.ReadAll(r, name, s.limit())
	if err != nil {
		return nil, err
	}
	return s.content(name, data)
}

// content finds out by the first bytes what data is.
func (s Source) content(name string, data []byte) ([]Passage, error) {
	data, err := unpack(name, data, s.limit())
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, magicParquet) {
		return s.table(name, bytes.NewReader(data), int64(len(data)))
	}
	return s.parse(name, data)
}

// unpack undoes gzip and zstd.
func unpack(name string, data []byte, limit int64) ([]byte, error) {
	var r io.Reader
	switch {
	case bytes.HasPrefix(data, magicGzip):
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		r = z
	case bytes.HasPrefix(data, magicZstd):
		// As much as zstd --ultra writes, and no more.
		z, err := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(1<<27))
		if err != nil {
			return nil, fmt.Errorf("%s: zstd: %w", name, err)
		}
		defer z.Close()
		r = z
	default:
		return data, nil
	}
	out, err := disk.ReadAll(r, name, limit)
	if err != nil {
		return nil, fmt.Errorf("unpacking %w", err)
	}
	return out, nil
}

// unpackedSize is how large what is in a file is, as its headers have it.
func unpackedSize(name, field string) int64 {
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return 0
	}
	f, err := os.Open(name)
	if err != nil {
		return 0
	}
	defer f.Close()
	switch {
	case begins(f, magicParquet):
		return tableSize(f, st.Size(), field)
	case begins(f, magicGzip) && st.Size() >= 18:
		var b [4]byte // of its last member, modulo 4 GiB
		if _, err := f.ReadAt(b[:], st.Size()-4); err == nil {
			return max(st.Size(), int64(binary.LittleEndian.Uint32(b[:])))
		}
	case begins(f, magicZstd):
		b := make([]byte, zstd.HeaderMaxSize)
		n, _ := f.ReadAt(b, 0)
		var h zstd.Header
		if h.Decode(b[:n]) == nil && h.HasFCS && h.FrameContentSize < 1<<40 {
			return max(st.Size(), int64(h.FrameContentSize))
		}
		return 4 * st.Size() // as text packs
	}
	return st.Size()
}
