package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// key identifies a measurement.
type key struct {
	model, method string
	bits, group   int
}

func readRows(path string) (rowSet, error) {
	rows := rowSet{}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return rows, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		var r row
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", path, n, err)
		}
		rows[key{r.Model, r.Method, r.Bits, r.Group}] = r
	}
	return rows, s.Err()
}

// reference is a row of testdata/golden/perplexity.json.
type reference struct {
	Model      string  `json:"model"`
	Method     string  `json:"method"`
	Bits       int     `json:"bits"`
	Group      int     `json:"group"`
	Perplexity float64 `json:"perplexity"`
	KL         float64 `json:"kl"`
	Source     string  `json:"source"`
}

// rowSet is measurements by what they are of.
type rowSet map[key]row

// referenceSet is what the published code makes of the same models and texts.
type referenceSet map[key]reference

func readReferences(path string) (referenceSet, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var file struct{ Rows []reference }
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	set := referenceSet{}
	for _, r := range file.Rows {
		set[key{r.Model, r.Method, r.Bits, r.Group}] = r
	}
	return set, nil
}
