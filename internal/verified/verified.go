// Package verified holds what the checks in engines/ have found: which engine,
// in which version, loads which file, and how near its logits come.
package verified

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

// Result is one file in one engine. It is a line of results.jsonl.
type Result struct {
	Engine  string `json:"engine"` // as package layout names it
	Version string `json:"version"`
	With    string `json:"with,omitempty"` // packages that took part, and their versions
	Check   string `json:"check"`          // the program, in the repository
	Model   string `json:"model"`          // folder in testdata
	Type    string `json:"type,omitempty"` // its model_type, in testdata/architectures
	Format  string `json:"format"`
	Bits    int    `json:"bits"`
	Group   int    `json:"group"`
	// Symmetric and Axis are those of the scheme.
	Symmetric bool   `json:"symmetric"`
	Grid      string `json:"grid,omitempty"`  // its text, if it is not uniform
	Axis      string `json:"axis,omitempty"`  // "ic", or "" for oc
	Mixed     bool   `json:"mixed,omitempty"` // one linear of one block is dense
	DType     string `json:"dtype"`           // what the engine computes in

	Loads bool `json:"loads"` // no tensor without a partner, and the right logits
	// Difference is the largest of the logits from those of the dequantized
	// weights, Floor the same of the unquantized model in this engine and
	// DType, both in standard deviations of the logits. KL is the mean
	// divergence in nats a token. Of an engine that shows no logits, Difference is
	// how far the tokens it goes on with are behind the likeliest, and there is no KL.
	Difference float64 `json:"difference"`
	KL         float64 `json:"kl"`
	Floor      float64 `json:"floor"`
	Missing    int     `json:"missing"`
	Unexpected int     `json:"unexpected"`
	Error      string  `json:"error,omitempty"`
}

//go:embed results.jsonl
var lines string

// Results are all that were kept.
var Results = sync.OnceValue(func() []Result {
	all, err := Parse(lines)
	if err != nil {
		panic(err) // the file is part of the program, and a test reads it
	}
	return all
})

// Parse reads results, one a line.
func Parse(text string) ([]Result, error) {
	var all []Result
	for line := range strings.Lines(text) {
		var r Result
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			return nil, fmt.Errorf("results, line %d: %w", len(all)+1, err)
		}
		all = append(all, r)
	}
	return all, nil
}
