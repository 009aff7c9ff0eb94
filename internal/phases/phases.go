// Package phases measures what the time of a run goes to. The clock travels in a context;
// where there is none, nothing is measured. All methods of a nil Clock do nothing.
package phases

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// Phase is a part of a run.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"` // by the wall clock, without those of phases inside
}

// What phases are called.
const (
	Text        = "text"        // text is read and encoded
	Checks      = "checks"      // weights are looked through for what no grid holds
	Allocation  = "allocation"  // bits are shared out
	Curvature   = "curvature"   // the text goes through the model and back
	Reading     = "reading"     // weights are waited for
	Forward     = "forward"     // blocks are run
	Statistics  = "statistics"  // of inputs
	Folding     = "folding"     // scales that are folded are searched for
	Solving     = "solving"     // layers are quantized
	Rounding    = "rounding"    // layers are read, rounded and written in pieces
	Tuning      = "tuning"      // the model as a whole
	Waiting     = "waiting"     // for other parts
	Writing     = "writing"     // of what is kept, and of the output
	Evaluation  = "evaluation"  // of the output
	Scoring     = "scoring"     // the head is run, and predictions are scored
	Preparation = "preparation" // all else
)

// Clock adds up the time of phases. They are those of one goroutine: what others do
// meanwhile is not told apart.
type Clock struct {
	mu     sync.Mutex
	now    func() time.Time
	parent *Clock
	begun  time.Time
	since  time.Time
	stack  []string
	whole  int // phases that those inside count for
	phases []Phase
}

// New is a clock, in whose parent, if not nil, all counts too.
func New(parent *Clock) *Clock {
	c := &Clock{now: time.Now, parent: parent}
	c.begun = c.now()
	c.since = c.begun
	return c
}

type key struct{}

// With is a context with a clock of its own; what it measures counts in that of ctx too.
func With(ctx context.Context) (context.Context, *Clock) {
	c := New(Of(ctx))
	return context.WithValue(ctx, key{}, c), c
}

// Of is the clock of a context, or nil.
func Of(ctx context.Context) *Clock {
	c, _ := ctx.Value(key{}).(*Clock)
	return c
}

// Enter begins a phase; the phase around it, if there is one, waits until the function that it
// returns is called.
func (c *Clock) Enter(name string) (leave func()) { return c.enter(name, false) }

// Whole is Enter for a phase to which all counts that is entered inside.
func (c *Clock) Whole(name string) (leave func()) { return c.enter(name, true) }

func (c *Clock) enter(name string, whole bool) func() {
	if c == nil {
		return func() {}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.whole > 0 {
		return func() {}
	}
	c.turn()
	c.stack = append(c.stack, name)
	if whole {
		c.whole++
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.turn()
		c.stack = c.stack[:len(c.stack)-1]
		if whole {
			c.whole--
		}
	}
}

// turn counts the time since the last turn for the phase at hand.
func (c *Clock) turn() {
	now := c.now()
	if n := len(c.stack); n > 0 {
		c.add(c.stack[n-1], now.Sub(c.since))
	}
	c.since = now
}

func (c *Clock) add(name string, d time.Duration) {
	i := slices.IndexFunc(c.phases, func(p Phase) bool { return p.Name == name })
	if i < 0 {
		i = len(c.phases)
		c.phases = append(c.phases, Phase{Name: name})
	}
	c.phases[i].Seconds += d.Seconds()
	if c.parent != nil {
		c.parent.mu.Lock()
		defer c.parent.mu.Unlock()
		c.parent.add(name, d)
	}
}

// Phases are those so far, in the order in which they first came; what is left of the time
// since New is Preparation, in front.
func (c *Clock) Phases() []Phase {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.turn()
	rest := c.since.Sub(c.begun).Seconds()
	for _, p := range c.phases {
		rest -= p.Seconds
	}
	all := append([]Phase{{Preparation, max(0, rest)}}, c.phases...)
	for i := range all {
		all[i].Seconds = math.Round(1e6*all[i].Seconds) / 1e6
	}
	return all
}

// Seconds is how long a phase has taken so far.
func (c *Clock) Seconds(name string) float64 {
	for _, p := range c.Phases() {
		if p.Name == name {
			return p.Seconds
		}
	}
	return 0
}

// Sum is how long phases have taken together.
func Sum(all []Phase) float64 {
	var sum float64
	for _, p := range all {
		sum += p.Seconds
	}
	return sum
}

// In runs fn as a phase of the clock of a context.
func In(ctx context.Context, name string, fn func() error) error {
	defer Of(ctx).Enter(name)()
	return fn()
}
