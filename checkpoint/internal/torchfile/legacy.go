package torchfile

import (
	"bytes"
	"encoding/binary"
	"io"
)

// magic is 0x1950a86a20f9469cfc6c, the number that the first pickle holds.
var magic = long{0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19}

const legacyProtocol = 1001

// readLegacy reads the stream of pickles that torch.save wrote before 1.6, and
// writes with _use_new_zipfile_serialization=False.
func readLegacy(r io.ReaderAt, size int64) (value, map[string]span, error) {
	at := int64(0)
	storages := map[string]*storage{}
	next := func() (value, error) {
		v, n, err := unpickle(io.NewSectionReader(r, at, size-at), func(id value) (value, error) {
			s, err := persistentStorage(id)
			if err != nil {
				return nil, err
			}
			if other, ok := storages[s.key]; !ok {
				storages[s.key] = s
			} else if other.dtype != s.dtype || other.elems != s.elems {
				return nil, invalidf("pickle: storage %s in two sizes", nameText(s.key))
			}
			return s, nil
		})
		at += n
		return v, err
	}
	first, err := next()
	if err != nil {
		return nil, nil, err
	}
	if m, ok := first.(long); !ok || !bytes.Equal(m, magic) {
		return nil, nil, invalidf("a pickle of %s, not of torch.save", kindText(first))
	}
	version, err := next()
	if err != nil {
		return nil, nil, err
	}
	if version != value(int64(legacyProtocol)) {
		return nil, nil, invalidf("protocol version %s, want %d", kindText(version), legacyProtocol)
	}
	machine, err := next()
	if err != nil {
		return nil, nil, err
	}
	if d, ok := machine.(*dict); ok {
		for i, k := range d.keys {
			if k == value("little_endian") && d.values[i] == value(false) {
				return nil, nil, invalidf("written on a big-endian machine, which is not read")
			}
		}
	}
	root, err := next()
	if err != nil {
		return nil, nil, err
	}
	keys, err := next()
	if err != nil {
		return nil, nil, err
	}
	spans, err := legacySpans(r, at, size, keys, storages)
	return root, spans, err
}

// legacySpans walks over the storages that follow the pickles.
func legacySpans(r io.ReaderAt, at, size int64, keys value, storages map[string]*storage) (map[string]span, error) {
	l, ok := keys.(*list)
	if !ok {
		return nil, invalidf("the storage keys are %s, want a list", kindText(keys))
	}
	spans := map[string]span{}
	for _, k := range l.items {
		key, _ := k.(string)
		s, ok := storages[key]
		if !ok {
			return nil, invalidf("storage %s belongs to no tensor", kindText(k))
		}
		var count [8]byte
		if size-at < 8 {
			return nil, invalidf("truncated: storage %s begins at %d in a file of %d", nameText(key), at, size)
		}
		if err := readFull(r, count[:], at); err != nil {
			return nil, err
		}
		at += 8
		// An untyped storage is counted in bytes in both places.
		n := int64(binary.LittleEndian.Uint64(count[:]))
		if n != s.elems {
			return nil, invalidf("storage %s has %d elements, want %d", nameText(key), n, s.elems)
		}
		bytes := n * s.width()
		if bytes > size-at {
			return nil, invalidf("truncated: storage %s of %d bytes at %d in a file of %d", nameText(key), bytes, at, size)
		}
		spans[key] = span{at, bytes}
		at += bytes
	}
	return spans, nil
}
