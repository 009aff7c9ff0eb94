// Package pace tells from the events of a run how far it is, and how long the rest will take.
package pace

import (
	"time"

	"github.com/golowbit/lowbit"
)

// Work is how far the phase at hand is, and at what pace. Layers count by their weights.
type Work struct {
	Phase string
	Turns int     // phases so far
	Total float64 // of what is counted

	done  float64
	idle  float64   // done without work, by an earlier run
	begun time.Time // of the phase
	now   time.Time // of the last event

	weights float64 // of all layers
	kept    int     // layers of an earlier run that are still to be told
}

// inLayers is the phase in which layers are quantized.
const inLayers = "layers"

// patience is how long a phase must have taken for its pace to say anything.
const patience = 10 * time.Second

// Event takes account of an event.
func (w *Work) Event(e lowbit.Event, now time.Time) {
	before := w.now
	if before.IsZero() {
		before = now
	}
	w.now = now
	switch e.Kind {
	case lowbit.EventPlan:
		w.kept, w.weights = e.Kept, 0
		if e.Plan != nil {
			for _, l := range e.Plan.Layers {
				if !l.Dense {
					w.weights += float64(l.Out) * float64(l.In)
				}
			}
		}
		w.turn(inLayers, w.weights, now)
	case lowbit.EventBlock, lowbit.EventLayer:
		if w.Phase != inLayers {
			w.turn(inLayers, w.weights, before)
		}
		if l := e.Layer; l != nil && !l.Dense {
			n := float64(l.Out) * float64(l.In)
			w.done += n
			if w.kept > 0 {
				w.kept--
				w.idle += n
			}
		}
	case lowbit.EventProgress:
		w.reach(e.Message, float64(e.Done), float64(e.Total), before)
	case lowbit.EventWrite:
		if w.Phase != inLayers || w.done >= w.Total {
			w.reach("writing", float64(e.Done), float64(e.Total), before)
		}
	}
}

// reach goes on in a phase, or begins it: what is counted on is one phase, whatever it is called.
func (w *Work) reach(phase string, done, total float64, before time.Time) {
	if w.Phase == inLayers || total != w.Total || done < w.done {
		w.turn(phase, total, before)
	}
	w.Phase, w.done = phase, done
}

// turn begins a phase.
func (w *Work) turn(phase string, total float64, begun time.Time) {
	w.Phase, w.done, w.Total, w.idle, w.begun = phase, 0, total, 0, begun
	w.Turns++
}

// Share is how much of the phase is done, 0 to 1.
func (w *Work) Share() float64 {
	if w.Total <= 0 {
		return 0
	}
	return min(1, w.done/w.Total)
}

// Left is how long the phase will take yet at its pace so far.
func (w *Work) Left() (time.Duration, bool) {
	fresh, spent := w.done-w.idle, w.now.Sub(w.begun)
	if fresh <= 0 || w.done >= w.Total || spent < patience {
		return 0, false
	}
	return time.Duration(float64(spent) / fresh * (w.Total - w.done)), true
}
