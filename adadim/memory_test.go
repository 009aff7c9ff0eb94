package adadim_test

import (
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/adadim"
	"github.com/golowbit/lowbit/gptq"
	"github.com/golowbit/lowbit/internal/testkit"
	"github.com/golowbit/lowbit/quant"
)

// peak is the most that f has in use beyond what there was before, as the
// collector sees it, which runs all the time.
func peak(f func()) int64 {
	live := func() int64 {
		runtime.GC()
		s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		metrics.Read(s)
		return int64(s[0].Value.Uint64())
	}
	before, most := live(), int64(0)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			most = max(most, live())
			select {
			case <-stop:
				return
			case <-time.After(3 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-done
	return most - before
}

// TestMemory: methods need no more than they say.
func TestMemory(t *testing.T) {
	for _, shape := range [][2]int{{512, 1408}, {1408, 512}} {
		out, in := shape[0], shape[1]
		rng := rand.New(rand.NewPCG(1, 1))
		w, x := testkit.Normal(rng, out, in), testkit.Correlated(rng, 200, in)
		s := quant.Scheme{Bits: 4, GroupSize: 128, Clip: true, ClipInput: true}
		for name, q := range map[string]adadim.Quantizer{
			"best":  {Method: gptq.Quantizer{Refine: gptq.DefaultRefine()}, Arms: adadim.AllArms(), Objective: adadim.ObjectiveRelative, Search: adadim.SearchMethod},
			"fast":  {Method: gptq.Quantizer{}, Arms: adadim.AllArms(), Objective: adadim.ObjectiveRelative},
			"plain": {Method: gptq.Quantizer{}, Arms: adadim.PaperArms()},
			"gptq":  {Method: gptq.Quantizer{}, Arms: []adadim.Arm{adadim.ArmOC()}},
			"rtn":   {Method: quant.RTN{}, Arms: adadim.PaperArms()},
		} {
			cal := quant.NewCalibration(x, 2)
			var err error
			n := peak(func() { _, err = q.Quantize(t.Context(), w, s, cal) })
			require.NoError(t, err)
			runtime.KeepAlive(cal)
			require.LessOrEqual(t, n, quant.Memory(q, out, in), "%s %v", name, shape)
		}
	}
}
