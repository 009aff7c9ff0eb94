package torchfile

import (
	"archive/zip"
	"io"
	"strings"
)

// readZip reads the pickle of a zip container and finds its storages.
func readZip(r io.ReaderAt, size int64) (value, map[string]span, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, nil, invalidf("a zip file that is cut short or damaged: %v", err)
	}
	entries := map[string]*zip.File{}
	var pickles []string
	for _, e := range z.File {
		if _, twice := entries[e.Name]; twice {
			return nil, nil, invalidf("zip entry %s is there twice", nameText(e.Name))
		}
		entries[e.Name] = e
		if dir, name, _ := cutLast(e.Name); name == "data.pkl" {
			pickles = append(pickles, dir)
		}
	}
	if len(pickles) != 1 {
		return nil, nil, invalidf("a zip file with %d entries named data.pkl, want 1: not of torch.save", len(pickles))
	}
	dir := pickles[0]
	if _, ok := entries[dir+"constants.pkl"]; ok {
		return nil, nil, invalidf("a TorchScript program (constants.pkl), which is not read: save model.state_dict() with torch.save")
	}
	if e, ok := entries[dir+"byteorder"]; ok {
		order, err := readEntry(e, 16)
		if err != nil {
			return nil, nil, err
		}
		if string(order) != "little" {
			return nil, nil, invalidf("byteorder %s, want \"little\"", nameText(string(order)))
		}
	}
	spans := map[string]span{}
	pickle, err := entries[dir+"data.pkl"].Open()
	if err != nil {
		return nil, nil, invalidf("zip entry data.pkl: %v", err)
	}
	defer pickle.Close()
	root, _, err := unpickle(pickle, func(id value) (value, error) {
		s, err := persistentStorage(id)
		if err != nil {
			return nil, err
		}
		if _, known := spans[s.key]; known || s.elems == 0 {
			return s, nil
		}
		e, ok := entries[dir+"data/"+s.key]
		if !ok {
			return nil, invalidf("storage %s is not in the zip file", nameText(s.key))
		}
		if spans[s.key], err = stored(e, size); err != nil {
			return nil, err
		}
		return s, nil
	})
	return root, spans, err
}

// stored finds the bytes of an entry, which must lie in the file as they are.
func stored(e *zip.File, size int64) (span, error) {
	n := e.UncompressedSize64
	if e.Method != zip.Store || e.CompressedSize64 != n {
		return span{}, invalidf("zip entry %s is compressed, want it stored", nameText(e.Name))
	}
	begin, err := e.DataOffset()
	if err != nil {
		return span{}, invalidf("zip entry %s: %v", nameText(e.Name), err)
	}
	if begin < 0 || begin > size || n > uint64(size-begin) {
		return span{}, invalidf("truncated: zip entry %s of %d bytes at %d in a file of %d", nameText(e.Name), n, begin, size)
	}
	return span{begin, int64(n)}, nil
}

// readEntry reads a small entry.
func readEntry(e *zip.File, limit int64) ([]byte, error) {
	r, err := e.Open()
	if err != nil {
		return nil, invalidf("zip entry %s: %v", nameText(e.Name), err)
	}
	defer r.Close()
	p, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return nil, invalidf("zip entry %s: %v", nameText(e.Name), err)
	}
	return p, nil
}

// cutLast splits a path after its last slash.
func cutLast(path string) (dir, name string, ok bool) {
	i := strings.LastIndexByte(path, '/') + 1
	return path[:i], path[i:], i > 0
}
