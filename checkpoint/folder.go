package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/safetensors"
)

// tensorFiles is a Source over safetensors files.
type tensorFiles struct {
	r   safetensors.Reader
	dir string
}

// openFolder opens the safetensors files of a folder. Older AutoGPTQ named
// its only file after the scheme; such a file is taken if it is alone.
func openFolder(dir string) (layout.Source, error) {
	r, err := safetensors.OpenFolder(dir)
	if err == nil {
		return &tensorFiles{r, dir}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// What is missing may be a shard that the index names.
	if _, statErr := os.Lstat(filepath.Join(dir, "model.safetensors.index.json")); statErr == nil {
		return nil, err
	}
	files, globErr := filepath.Glob(filepath.Join(escapeGlob(dir), "*.safetensors"))
	if globErr != nil || len(files) != 1 {
		return nil, err
	}
	f, openErr := safetensors.Open(files[0])
	if openErr != nil {
		return nil, openErr
	}
	return &tensorFiles{f, dir}, nil
}

func escapeGlob(path string) string {
	var b []rune
	for _, c := range path {
		if filepath.Separator == '/' && (c == '*' || c == '?' || c == '[' || c == '\\') {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return string(b)
}

func (t *tensorFiles) Names() []string { return t.r.Names() }

func (t *tensorFiles) Spec(name string) (layout.Spec, bool) {
	info, ok := t.r.Info(name)
	return layout.Spec{Name: info.Name, DType: info.DType, Shape: info.Shape}, ok
}

func (t *tensorFiles) ReadAt(name string, p []byte, off int64) error {
	s, err := t.r.Section(name)
	if err != nil {
		return err
	}
	if off < 0 || off+int64(len(p)) > s.Size() {
		return layout.TensorError(t, name, "bytes %d to %d of %d asked for", off, off+int64(len(p)), s.Size())
	}
	if n, err := s.ReadAt(p, off); n < len(p) {
		return layout.TensorError(t, name, "reading: %w", err)
	}
	return nil
}

func (t *tensorFiles) File(name string) string {
	if info, ok := t.r.Info(name); ok && info.File != "" {
		return filepath.Join(t.dir, info.File)
	}
	return t.dir
}

func (t *tensorFiles) Close() error { return t.r.Close() }
