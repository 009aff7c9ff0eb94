package team

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	slurm := map[string]string{"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "4"}
	again := map[string]string{"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "1"}
	job := map[string]string{"JOB_COMPLETION_INDEX": "0"}
	for _, c := range []struct {
		text string
		env  map[string]string
		want Part
		err  string
	}{
		{"2/4", nil, Part{2, 4}, ""},
		{"1/1", slurm, Part{1, 1}, ""},
		{"auto", slurm, Part{3, 4}, ""},
		{"auto/4", again, Part{3, 4}, ""},
		{"auto/2", job, Part{1, 2}, ""},
		{"auto/2", again, Part{}, "want --array=1-2"},
		{"auto", job, Part{}, "want auto/N"},
		{"auto", nil, Part{}, "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX"},
		{"auto/0", job, Part{}, "want auto/N"},
		{"auto/x", job, Part{}, "want auto/N"},
		{"auto", map[string]string{"SLURM_ARRAY_TASK_ID": "1"}, Part{}, "SLURM_ARRAY_TASK_MIN"},
		{"auto/3", map[string]string{"JOB_COMPLETION_INDEX": "3"}, Part{}, "from 1 to 3"},
		{"0/4", nil, Part{}, "from 1 to 4"},
		{"5/4", nil, Part{}, "from 1 to 4"},
		{"0/0", nil, Part{}, "at least one part"},
		{"1/100000", nil, Part{}, "want 1 to 10000"},
		{"1", nil, Part{}, "want I/N"},
		{"a/b", nil, Part{}, "want I/N"},
		{"1/", nil, Part{}, "want I/N"},
	} {
		got, err := Parse(c.text, func(name string) string { return c.env[name] })
		if c.err != "" {
			require.ErrorIs(t, err, ErrPart, c.text)
			require.ErrorContains(t, err, c.err, c.text)
			continue
		}
		require.NoError(t, err, c.text)
		require.Equal(t, c.want, got, c.text)
	}
	require.NoError(t, Part{}.Validate())
	require.True(t, Part{}.Alone())
	require.Equal(t, "part 2 of 4", Part{2, 4}.String())
	text, err := Part{2, 4}.MarshalText()
	require.NoError(t, err)
	var p Part
	require.NoError(t, p.UnmarshalText(text))
	require.Equal(t, Part{2, 4}, p)
}

func TestShares(t *testing.T) {
	got := Shares([][]int64{{4, 1, 1}, {2, 2}, {9}, {9}}, 2)
	require.Equal(t, [][]int{{1, 2, 2}, {2, 1}, {2}, {1}}, got)
	require.Equal(t, [][]int{{1, 1}}, Shares([][]int64{{1, 2}}, 1))
	require.Equal(t, [][]int{{2, 1}}, Shares([][]int64{{1, 2}}, 5))
}

func TestRange(t *testing.T) {
	for n := range 20 {
		for count := 1; count < 7; count++ {
			next := 0
			for i := range count {
				from, to := Part{i + 1, count}.Range(n)
				require.Equal(t, next, from)
				require.LessOrEqual(t, to-from, (n+count-1)/count)
				next = to
			}
			require.Equal(t, n, next)
		}
	}
	from, to := Part{}.Range(5)
	require.Equal(t, [2]int{0, 5}, [2]int{from, to})
}
