package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/consolidated"
	"github.com/golowbit/lowbit/checkpoint/internal/lora"
	"github.com/golowbit/lowbit/checkpoint/layout"
)

// isWeightFile says whether a file of a model folder holds tensors, or the
// index of files that do: those are not copied.
func isWeightFile(name string) bool {
	name = strings.ToLower(name)
	if strings.HasSuffix(name, ".index.json") {
		return true
	}
	switch filepath.Ext(name) {
	case ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".npz":
		return true
	}
	return false
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// copyFiles copies the files of the source folder that are no tensors, and
// not those in replaced: tokenizer, generation settings, templates, code,
// licence, model card. Sub-folders and hidden files stay behind. If the source
// is a single file there is nothing to copy.
func copyFiles(dir string, source *Model, replaced map[string][]byte, formats []layout.Format) error {
	info, err := os.Stat(source.Path())
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return nil
	}
	// Some files describe the source's own quantization, or another layout
	// that it has no more: readers would look for its files.
	own := map[string]bool{lora.ConfigName: true, consolidated.ParamsName: true}
	for _, f := range formats {
		if s, ok := f.(layout.Sidecar); ok {
			own[s.Sidecar()] = true
		}
	}
	entries, err := fs.ReadDir(source.Files(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if _, ok := replaced[name]; ok || own[name] || strings.HasPrefix(name, ".") || isWeightFile(name) {
			continue
		}
		// Stat, because the hub's cache is a folder of links.
		info, err := fs.Stat(source.Files(), name)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if err := copyFile(filepath.Join(dir, name), source.Files(), name); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(to string, from fs.FS, name string) error {
	r, err := from.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	return createSync(to, func(f io.Writer) error {
		_, err := io.Copy(f, r)
		return err
	})
}

func writeFileSync(path string, data []byte) error {
	return createSync(path, func(f io.Writer) error {
		_, err := f.Write(data)
		return err
	})
}

// createSync writes a file and brings it to the disk.
func createSync(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}
