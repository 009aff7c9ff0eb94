package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"sync"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/cmd/lowbit/internal/pace"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/internal/phases"
)

// streamVersion is that of the events of --progress json. It grows when a field goes or
// means something else; docs/progress.md describes them.
const streamVersion = 1

// stream writes events, one JSON object a line. Nothing else is written to standard error then.
type stream struct {
	mu    sync.Mutex
	out   io.Writer
	now   func() time.Time
	begun time.Time
	last  time.Time // of the last step
	turn  int       // phase of the last step
}

// streamLine is an event in the stream.
type streamLine struct {
	Kind    lowbit.EventKind `json:"kind"`
	Seconds float64          `json:"seconds"`

	// Of the start.
	Version int      `json:"version,omitempty"`
	Verb    string   `json:"verb,omitempty"`
	Args    []string `json:"args,omitempty"`

	Name    string              `json:"name,omitempty"`
	Message string              `json:"message,omitempty"`
	Block   *int                `json:"block,omitempty"`
	Blocks  *int                `json:"blocks,omitempty"`
	Done    *int                `json:"done,omitempty"`
	Total   *int                `json:"total,omitempty"`
	Kept    *int                `json:"kept,omitempty"`
	KL      *float64            `json:"kl,omitempty"`
	Share   *float64            `json:"share,omitempty"`
	Left    *float64            `json:"left,omitempty"`
	Layer   *lowbit.LayerReport `json:"layer,omitempty"`
	Plan    *lowbit.Plan        `json:"plan,omitempty"`

	// Of the end.
	Code       *int           `json:"code,omitempty"`
	Phases     []lowbit.Phase `json:"phases,omitempty"`
	PeakMemory int64          `json:"peak_memory,omitempty"`
}

// Kinds of event beside the library's.
const (
	eventStart = "start"
	eventNote  = "note"
	eventEnd   = "end"
)

func newStream(out io.Writer) *stream {
	s := &stream{out: out, now: time.Now}
	s.begun = s.now()
	return s
}

func (s *stream) write(l streamLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.Seconds = math.Round(1e3*s.now().Sub(s.begun).Seconds()) / 1e3
	text, err := json.Marshal(l)
	if err != nil { // a number that JSON does not have
		text, _ = json.Marshal(streamLine{Kind: lowbit.EventWarning, Seconds: l.Seconds, Message: fmt.Sprintf("an event (%s) cannot be put into JSON: %v", l.Kind, err)})
	}
	_, _ = s.out.Write(append(text, '\n')) // who does not listen is no reason to stop
}

// event writes an event of the library with how far the work is.
func (s *stream) event(e lowbit.Event, w *pace.Work) {
	l := streamLine{Kind: e.Kind, Name: e.Name, Message: e.Message, Layer: e.Layer, Plan: e.Plan}
	switch e.Kind {
	case lowbit.EventPlan:
		l.Blocks, l.Total, l.Kept = &e.Blocks, &e.Total, &e.Kept
	case lowbit.EventBlock:
		l.Block, l.Blocks = &e.Block, &e.Blocks
	case lowbit.EventLayer:
		l.Done, l.Total, l.Kept = &e.Done, &e.Total, &e.Kept
	case lowbit.EventProgress, lowbit.EventWrite:
		now := s.now()
		if s.turn == w.Turns && e.Done < e.Total && now.Sub(s.last) < 100*time.Millisecond {
			return
		}
		s.turn, s.last = w.Turns, now
		l.Done, l.Total = &e.Done, &e.Total
	case lowbit.EventTune:
		l.Done, l.Total, l.KL = &e.Done, &e.Total, &e.KL
	}
	if e.Kind != lowbit.EventWarning && e.Kind != lowbit.EventWait && e.Kind != lowbit.EventTune {
		share := math.Round(1e4*w.Share()) / 1e4
		l.Share = &share
		if left, ok := w.Left(); ok {
			seconds := math.Round(left.Seconds())
			l.Left = &seconds
		}
	}
	s.write(l)
}

// end writes the last line.
func (s *stream) end(code int, message string, clock *phases.Clock) {
	s.write(streamLine{Kind: eventEnd, Code: &code, Message: message, Phases: clock.Phases(), PeakMemory: memory.Peak()})
}
