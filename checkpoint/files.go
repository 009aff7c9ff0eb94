package checkpoint

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/internal/coded"
	"github.com/golowbit/lowbit/checkpoint/internal/consolidated"
	"github.com/golowbit/lowbit/checkpoint/internal/lora"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/disk"
	"github.com/golowbit/lowbit/safetensors"
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

// WeightBytes is the size of the files of weights of the model at path: of the
// file itself, or all its parts, or of the safetensors files of a folder, or of the
// model in one file there.
func WeightBytes(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	var files []string
	if info.IsDir() {
		if files, err = weightFiles(path); err != nil {
			return 0, err
		}
	} else {
		files = partsOf(path, Formats())
	}
	var sum int64
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			return 0, err
		}
		sum += info.Size()
	}
	return sum, nil
}

func weightFiles(dir string) ([]string, error) {
	f, err := safetensors.OpenFolder(dir)
	switch {
	case err == nil:
		return inFolder(dir, f.Files()), f.Close()
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	// A single file of another name.
	names, err := fs.Glob(os.DirFS(dir), "*.safetensors")
	if err != nil || len(names) > 0 {
		return inFolder(dir, names), err
	}
	if path, err := fileIn(dir, Formats()); err == nil && path != "" {
		return partsOf(path, Formats()), nil
	}
	return nil, nil
}

func inFolder(dir string, names []string) []string {
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = filepath.Join(dir, name)
	}
	return paths
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// copyFiles copies the files of the source folder that are no tensors, and
// not those in replaced: tokenizer, generation settings, templates, code,
// licence, model card. Sub-folders and hidden files stay behind. If the source
// is a single file it has those that its format makes of it.
func copyFiles(d disk.FS, dir string, source *Model, replaced map[string][]byte, formats []layout.Format) error {
	if own, ok := source.Files().(layout.OwnFiles); ok {
		return copyOwn(d, dir, own, replaced)
	}
	info, err := os.Stat(source.Path())
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return nil
	}
	// Some files describe the source's own quantization, or another layout
	// that it has no more: readers would look for its files.
	own := map[string]bool{lora.ConfigName: true, coded.Sidecar{}.Sidecar(): true, consolidated.ParamsName: true}
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
		if err := copyFile(d, filepath.Join(dir, name), source.Files(), name); err != nil {
			return err
		}
	}
	return nil
}

// copyOwn writes the files that a model in one file has beside config.json.
func copyOwn(d disk.FS, dir string, own layout.OwnFiles, replaced map[string][]byte) error {
	names, err := own.Names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ok := replaced[name]; ok {
			continue
		}
		to := filepath.Join(dir, filepath.FromSlash(name))
		if err := d.MkdirAll(filepath.Dir(to), 0o777); err != nil {
			return err
		}
		if err := copyFile(d, to, own, name); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(d disk.FS, to string, from fs.FS, name string) error {
	r, err := from.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	return d.CreateSync(to, func(f io.Writer) error {
		_, err := io.Copy(f, r)
		return err
	})
}
