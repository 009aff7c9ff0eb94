// Package copied is what of a model is neither a tensor nor its configuration, and goes into
// another as it is.
package copied

import (
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
)

// IsWeights says whether a file of a model folder holds tensors, or the
// index of files that do: those are not copied.
func IsWeights(name string) bool {
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

// Files copies into dir the files of a model at path that are no tensors, and
// not those in replaced: tokenizer, generation settings, templates, code,
// licence, model card. Sub-folders and hidden files stay behind. If the model
// is a single file it has those that its format makes of it.
func Files(d disk.FS, dir, path string, files fs.FS, replaced map[string][]byte, formats []layout.Format) error {
	if own, ok := files.(layout.OwnFiles); ok {
		return ownFiles(d, dir, own, replaced)
	}
	info, err := os.Stat(path)
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
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := e.Name()
		if _, ok := replaced[name]; ok || own[name] || strings.HasPrefix(name, ".") || IsWeights(name) {
			continue
		}
		// Stat, because the hub's cache is a folder of links.
		info, err := fs.Stat(files, name)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if err := copyFile(d, filepath.Join(dir, name), files, name); err != nil {
			return err
		}
	}
	return nil
}

// ownFiles writes the files that a model in one file has beside config.json.
func ownFiles(d disk.FS, dir string, own layout.OwnFiles, replaced map[string][]byte) error {
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
