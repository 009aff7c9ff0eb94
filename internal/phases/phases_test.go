package phases

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestClock: phases inside others are not counted twice, those inside a whole one not by
// themselves, and what is left over is the preparation. All counts in the parent too.
func TestClock(t *testing.T) {
	at := time.Unix(0, 0)
	tick := func(n int) { at = at.Add(time.Duration(n) * time.Second) }
	now := func() time.Time { return at }
	make := func(parent *Clock) *Clock {
		c := New(parent)
		c.now, c.begun, c.since = now, at, at
		return c
	}
	parent := make(nil)
	tick(5)
	c := make(parent)
	tick(1)
	forward := c.Enter(Forward)
	tick(2)
	statistics := c.Enter(Statistics)
	tick(3)
	require.Equal(t, 3.0, c.Seconds(Statistics))
	statistics()
	tick(4)
	forward()
	tick(7)
	whole := c.Whole(Evaluation)
	tick(1)
	inside := c.Enter(Forward)
	tick(1)
	inside()
	whole()
	again := c.Enter(Forward)
	tick(10)
	again()
	require.Equal(t, []Phase{{Preparation, 8}, {Forward, 16}, {Statistics, 3}, {Evaluation, 2}}, c.Phases())
	require.Equal(t, []Phase{{Preparation, 13}, {Forward, 16}, {Statistics, 3}, {Evaluation, 2}}, parent.Phases())
	require.Zero(t, c.Seconds(Tuning))
}

// TestContext: the clock is that of the context, and without one nothing happens.
func TestContext(t *testing.T) {
	failed := errors.New("failed")
	fail := func() error { time.Sleep(time.Millisecond); return failed }
	require.ErrorIs(t, In(t.Context(), Text, fail), failed)
	require.Nil(t, Of(context.Background()).Phases())
	ctx, outer := With(t.Context())
	ctx, c := With(ctx)
	require.ErrorIs(t, In(ctx, Text, fail), failed)
	require.GreaterOrEqual(t, c.Seconds(Text), 0.001)
	require.Equal(t, c.Seconds(Text), outer.Seconds(Text))
}
