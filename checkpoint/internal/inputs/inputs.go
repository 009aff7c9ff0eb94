// Package inputs tells whether the files that decide the result of a run are
// still the same.
package inputs

import (
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cespare/xxhash/v2"

	"github.com/golowbit/lowbit/internal/disk"
)

// File is a file that decides the result.
type File struct {
	Name string `json:"name"`
	// ID is what the system says of a file of weights: size, times, inode. As
	// long as it stays the file is not read.
	ID string `json:"id,omitempty"`
	// Hash is the XXH64 of what the file holds, "" as long as it is not known.
	Hash string `json:"hash,omitempty"`

	path string // "" if it is not read again
}

// Weights is a file of weights at path, known by what the system says of it.
func Weights(name, path string) (File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	return File{Name: name, ID: disk.Identity(st), path: path}, nil
}

// Other is another file that goes into the result, known by what it holds or, if
// it has more than most bytes, by what the system says of it.
func Other(files fs.FS, name string, most int64) (File, error) {
	st, err := fs.Stat(files, name)
	if err != nil {
		return File{}, err
	}
	f := File{Name: name}
	if st.Size() > most {
		f.ID = disk.Identity(st)
	} else if f.Hash, err = hashFile(files, name); err != nil {
		return File{}, err
	}
	return f, nil
}

// Unread says that the file is of weights and has not been read yet.
func (f *File) Unread() bool { return f.Hash == "" && f.path != "" }

func hashFile(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return hashOf(f)
}

func hashOf(r io.Reader) (string, error) {
	h := xxhash.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%016x", h.Sum64()), nil
}

// Read hashes a file of weights, which must not change meanwhile.
func (f *File) Read() error {
	if !f.Unread() {
		return nil
	}
	r, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer r.Close()
	if f.Hash, err = hashOf(r); err != nil {
		return err
	}
	st, err := r.Stat()
	if err == nil && disk.Identity(st) != f.ID {
		err = fmt.Errorf("%s: the file has changed since the run began: was %s, is %s", f.path, f.ID, disk.Identity(st))
	}
	return err
}

// Compare says in which files an earlier run differs. What is known of those
// that are the same is noted in now.
func Compare(now, was []File) ([]string, error) {
	old := map[string]File{}
	for _, in := range was {
		old[in.Name] = in
	}
	var list []string
	for i := range now {
		in := &now[i]
		o, ok := old[in.Name]
		delete(old, in.Name)
		switch {
		case !ok:
			list = append(list, in.Name+" was not there")
		case in.ID != "" && in.ID == o.ID:
			in.Hash = o.Hash
		case in.ID != "" && o.Hash == "":
			list = append(list, fmt.Sprintf("%s has been changed or replaced: was %s, is %s", in.Name, o.ID, in.ID))
		default:
			if err := in.Read(); err != nil {
				return nil, err
			}
			if in.Hash != o.Hash {
				list = append(list, fmt.Sprintf("%s holds something else than it did", in.Name))
			}
		}
	}
	for name := range old {
		list = append(list, name+" is gone")
	}
	return list, nil
}
