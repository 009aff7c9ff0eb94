//go:build !unix

package disk

import (
	"fmt"
	"io/fs"
)

// FileID tells a file from all others that exist now; "" where the system
// does not say.
func FileID(fs.FileInfo) string { return "" }

// Identity changes whenever a file's bytes do, and sometimes when they do not:
// size and time of modification.
func Identity(st fs.FileInfo) string {
	return fmt.Sprintf("%d bytes, %s", st.Size(), st.ModTime().UTC().Format("2006-01-02 15:04:05.999999999"))
}
