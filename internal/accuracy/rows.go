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

func readRows(path string) (map[key]row, error) {
	rows := map[key]row{}
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

// references are what the published code makes of the same models and texts.
var references = func() map[key]reference {
	data, err := os.ReadFile("testdata/golden/perplexity.json")
	if err != nil {
		panic(fmt.Errorf("run this from the project's root: %w", err))
	}
	var file struct{ Rows []reference }
	if err := json.Unmarshal(data, &file); err != nil {
		panic(err)
	}
	m := map[key]reference{}
	for _, r := range file.Rows {
		m[key{r.Model, r.Method, r.Bits, r.Group}] = r
	}
	return m
}()

func hasReference(method string) func(string, int, int) bool {
	return func(model string, bits, group int) bool {
		r, ok := references[key{model, method, bits, group}]
		return ok && r.Source == "reference"
	}
}
