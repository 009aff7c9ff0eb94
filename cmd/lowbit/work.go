package main

import (
	"time"

	"github.com/golowbit/lowbit"
)

// work is how far the phase at hand is, and at what pace. Layers count by their weights.
type work struct {
	phase       string
	turns       int // phases so far
	done, total float64
	idle        float64   // done without work, by an earlier run
	begun       time.Time // of the phase
	now         time.Time // of the last event

	weights float64 // of all layers
	kept    int     // layers of an earlier run that are still to be told
}

// inLayers is the phase in which layers are quantized.
const inLayers = "layers"

// patience is how long a phase must have taken for its pace to say anything.
const patience = 10 * time.Second

// event takes account of an event.
func (w *work) event(e lowbit.Event, now time.Time) {
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
		if w.phase != inLayers {
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
		if w.phase != inLayers || w.done >= w.total {
			w.reach("writing", float64(e.Done), float64(e.Total), before)
		}
	}
}

// reach goes on in a phase, or begins it: what is counted on is one phase, whatever it is called.
func (w *work) reach(phase string, done, total float64, before time.Time) {
	if w.phase == inLayers || total != w.total || done < w.done {
		w.turn(phase, total, before)
	}
	w.phase, w.done = phase, done
}

// turn begins a phase.
func (w *work) turn(phase string, total float64, begun time.Time) {
	w.phase, w.done, w.total, w.idle, w.begun = phase, 0, total, 0, begun
	w.turns++
}

// share is how much of the phase is done, 0 to 1.
func (w *work) share() float64 {
	if w.total <= 0 {
		return 0
	}
	return min(1, w.done/w.total)
}

// left is how long the phase will take yet at its pace so far.
func (w *work) left() (time.Duration, bool) {
	fresh, spent := w.done-w.idle, w.now.Sub(w.begun)
	if fresh <= 0 || w.done >= w.total || spent < patience {
		return 0, false
	}
	return time.Duration(float64(spent) / fresh * (w.total - w.done)), true
}
