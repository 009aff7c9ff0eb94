package inputs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// maxIDs limits a file of token ids, in bytes.
const maxIDs = 1 << 30

// IDs reads a JSON array of arrays of token ids; path - is standard input.
func IDs(path string, stdin io.Reader) ([][]int32, error) {
	r := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	data, err := io.ReadAll(io.LimitReader(r, maxIDs+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(data) > maxIDs {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxIDs)
	}
	var ids [][]int32
	if err := json.Unmarshal(bytes.TrimPrefix(data, []byte("\ufeff")), &ids); err != nil {
		return nil, fmt.Errorf("%s: want a JSON array of arrays of token ids: %w", path, err)
	}
	if len(ids) == 0 {
		return nil, fmt.Errorf("%s: no sequences", path)
	}
	return ids, nil
}
