package adadim_test

import (
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/metrics"
	"strconv"
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
	for _, workers := range []int{1, 2, 16} {
		t.Run(strconv.Itoa(workers), func(t *testing.T) { testMemory(t, workers) })
	}
}

func testMemory(t *testing.T, workers int) {
	// The collector counts what was let go while it looked, which is the more the busier
	// the machine: the least of some tries comes nearest to what is needed.
	const tries = 6
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(min(workers, runtime.GOMAXPROCS(0))))
	for _, shape := range [][2]int{{512, 1408}, {1408, 512}} {
		out, in := shape[0], shape[1]
		rng := rand.New(rand.NewPCG(1, 1))
		w, x := testkit.Normal(rng, out, in), testkit.Correlated(rng, 200, in)
		packed := int64(workers) * 2 << 20
		s := quant.Scheme{Bits: 4, GroupSize: 128, Clip: true, ClipInput: true}
		for name, q := range map[string]adadim.Quantizer{
			"best":  {Method: gptq.Quantizer{Refine: gptq.DefaultRefine()}, Arms: adadim.AllArms(), Objective: adadim.ObjectiveRelative, Search: adadim.SearchMethod},
			"fast":  {Method: gptq.Quantizer{}, Arms: adadim.AllArms(), Objective: adadim.ObjectiveRelative},
			"plain": {Method: gptq.Quantizer{}, Arms: adadim.PaperArms()},
			"gptq":  {Method: gptq.Quantizer{}, Arms: []adadim.Arm{adadim.ArmOC()}},
			"rtn":   {Method: quant.RTN{}, Arms: adadim.PaperArms()},
		} {
			q := quant.WithWorkers(q, workers)
			planned, used := quant.Memory(q, out, in)+packed, int64(math.MaxInt64)
			for try := 0; try < tries && used > planned; try++ {
				cal := quant.NewCalibration(x, 2)
				var err error
				used = min(used, peak(func() { _, err = q.Quantize(t.Context(), w, s, cal) }))
				require.NoError(t, err)
				runtime.KeepAlive(cal)
			}
			require.LessOrEqual(t, used, planned, "%s %v", name, shape)
		}
	}
}
