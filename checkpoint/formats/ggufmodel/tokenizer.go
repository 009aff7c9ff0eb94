package ggufmodel

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel/internal/vocab"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// tokenizerFS holds tokenizer.json and its companions, made from a file's metadata
// when the first is opened.
func tokenizerFS(f *modelFile) fs.FS {
	return memFS(sync.OnceValues(func() (map[string][]byte, error) {
		files, err := vocab.Files(f.f)
		if err != nil {
			return nil, fmt.Errorf("the tokenizer in the metadata: %w", err)
		}
		return files, nil
	}))
}

// tokenizerKV returns the tokenizer's metadata for a vocabulary of the
// given size: that of the source file if it is GGUF, else made from the
// source folder's tokenizer.json.
func tokenizerKV(src layout.Origin, size int) ([]gguf.KV, error) {
	if f, ok := src.Source().(*modelFile); ok {
		var kv []gguf.KV
		for _, e := range f.f.KV() {
			if strings.HasPrefix(e.Key, vocab.Prefix) {
				kv = append(kv, e)
			}
		}
		return kv, nil
	}
	t, err := tokenizer.OpenFS(src.Files())
	if err != nil {
		return nil, fmt.Errorf("a GGUF file holds its tokenizer: %s: %w", src.Path(), err)
	}
	kv, err := vocab.Metadata(t, src.Files(), size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(src.Path(), vocab.File), err)
	}
	return kv, nil
}
