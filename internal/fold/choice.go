package fold

import (
	"encoding/json"
	"fmt"
	"math"
)

// Choice is what Set was given for a stage, and why: enough to have the same
// Scales again.
type Choice struct {
	Stage     int
	Candidate // infinities and NaN may be among its factors
}

// storedChoice has the bits of the factors, which JSON does not hold otherwise.
type storedChoice struct {
	Stage int      `json:"stage"`
	Bits  []uint64 `json:"bits"`
	Note  string   `json:"note"`
}

// MarshalJSON implements json.Marshaler.
func (c Choice) MarshalJSON() ([]byte, error) {
	s := storedChoice{Stage: c.Stage, Note: c.Note, Bits: make([]uint64, len(c.Factors))}
	for i, f := range c.Factors {
		s.Bits[i] = math.Float64bits(f)
	}
	return json.Marshal(s)
}

// UnmarshalJSON implements json.Unmarshaler.
func (c *Choice) UnmarshalJSON(data []byte) error {
	var s storedChoice
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	*c = Choice{s.Stage, Candidate{make([]float64, len(s.Bits)), s.Note}}
	for i, b := range s.Bits {
		c.Factors[i] = math.Float64frombits(b)
	}
	return nil
}

// Apply sets the factors of choices that were made for a block like this one.
func (s *Scales) Apply(choices []Choice, round Round) error {
	for _, c := range choices {
		if c.Stage < 0 || c.Stage >= len(s.block.Stages) {
			return fmt.Errorf("fold: stage %d of %d", c.Stage, len(s.block.Stages))
		}
		f := s.block.Stages[c.Stage].Fold
		if f == nil || len(c.Factors) != f.Channels {
			return fmt.Errorf("fold: %d factors for stage %d", len(c.Factors), c.Stage)
		}
		s.Set(c.Stage, c.Factors, round)
	}
	return nil
}
