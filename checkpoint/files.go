package checkpoint

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit/checkpoint/internal/several"
	"github.com/golowbit/lowbit/safetensors"
)

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
		files = several.PartsOf(path, Formats())
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
	if path, err := several.FileIn(dir, Formats()); err == nil && path != "" {
		return several.PartsOf(path, Formats()), nil
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
