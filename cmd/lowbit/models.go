package main

import (
	"context"
	"errors"
	"time"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/hub"
)

// models puts where models lie in the place of how they were named: those on the hub are
// loaded unless they are in its cache. "" is none.
func (a *app) models(ctx context.Context, quiet bool, models ...*string) error {
	p := a.progress(quiet)
	defer p.close()
	for _, m := range models {
		if *m == "" {
			continue
		}
		path, err := hub.Path(ctx, *m, hub.Options{Progress: p.loading(*m)})
		if err != nil {
			return stoppedLoading(ctx, err)
		}
		*m = path
	}
	return nil
}

// model is models for one that may be an adapter: its base, if none is given, is loaded too.
func (a *app) model(ctx context.Context, quiet bool, model, base *string) error {
	if err := a.models(ctx, quiet, model, base); err != nil || *base != "" {
		return err
	}
	p := a.progress(quiet)
	defer p.close()
	return stoppedLoading(ctx, hub.Base(ctx, *model, hub.Options{Progress: p.loading("the base")}))
}

// loading shows what is loaded of a model, ten times a second at most.
func (p *progress) loading(name string) func(done, total int64) {
	var last time.Time
	return func(done, total int64) {
		if now := p.now(); done == total || now.Sub(last) >= time.Second/10 {
			last = now
		} else {
			return
		}
		p.event(lowbit.Event{Kind: lowbit.EventProgress, Message: "loading " + name, Done: int(done), Total: int(total)})
	}
}

// stoppedLoading says of an interrupt that nothing is lost.
func stoppedLoading(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return interrupted{"interrupted; what was loaded is kept in the hub's cache, and the same command goes on"}
	}
	return err
}
