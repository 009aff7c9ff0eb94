package lowbit

const (
	embedded            = "testdata/tinyllama-2m"
	embeddedCalibration = "testdata/tinyllama-2m-text/calibration.txt"
	embeddedHeldout     = "testdata/tinyllama-2m-text/heldout.txt"
)
