package main

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/color/palette"
	imagedraw "image/draw"
	"image/png"
	"math"
	"os"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/palette/moreland"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// cells is the most that a map has along a side.
const cells = 64

// grid is a map as it is drawn: cell means, by their logarithm.
type grid struct {
	w, h int
	z    []float64
}

func (g *grid) Dims() (c, r int)   { return g.w, g.h }
func (g *grid) Z(c, r int) float64 { return g.z[r*g.w+c] }
func (g *grid) X(c int) float64    { return float64(c) }
func (g *grid) Y(r int) float64    { return float64(r) }

// cellsOf averages neighbours. What lies more than six decades under the largest cell is drawn
// like what lies six decades under it.
func cellsOf(s *sensitive) *grid {
	m := s.fisher
	g := &grid{w: min(cells, m.Cols), h: min(cells, m.Rows)}
	g.z = make([]float64, g.w*g.h)
	n := make([]float64, len(g.z))
	most := 0.0
	for r := range m.Rows {
		at := (g.h - 1 - r*g.h/m.Rows) * g.w // the first output is drawn at the top
		for j, v := range m.Row(r) {
			k := at + j*g.w/m.Cols
			g.z[k] += float64(v)
			n[k]++
		}
	}
	for k := range g.z {
		g.z[k] /= n[k]
		most = max(most, g.z[k])
	}
	for k, v := range g.z {
		g.z[k] = math.Log10(max(v, 1e-6*most, math.SmallestNonzeroFloat32))
	}
	return g
}

// drawMaps draws one map a layer: a block in a row, its inputs from left to right, its outputs
// from top to bottom.
func drawMaps(maps []*sensitive, file string) error {
	names := roles(maps, func(s *sensitive) string { return s.role })
	blocks := roles(maps, func(s *sensitive) string { return fmt.Sprint(s.block) })
	plots := make([][]*plot.Plot, len(blocks))
	for i := range plots {
		plots[i] = make([]*plot.Plot, len(names))
	}
	colors := moreland.ExtendedBlackBody().Palette(64)
	for _, s := range maps {
		p := plot.New()
		p.Title.Text = fmt.Sprintf("block %d, %s", s.block, s.role)
		p.Title.TextStyle.Font.Size = font.Length(9)
		p.HideAxes()
		heat := plotter.NewHeatMap(cellsOf(s), colors)
		heat.Rasterized = true
		p.Add(heat)
		plots[slices.Index(blocks, fmt.Sprint(s.block))][slices.Index(names, s.role)] = p
	}
	img := vgimg.NewWith(vgimg.UseWH(vg.Length(len(names))*3.4*vg.Centimeter, vg.Length(len(blocks))*3.7*vg.Centimeter), vgimg.UseDPI(110))
	tiles := draw.Tiles{Rows: len(blocks), Cols: len(names), PadX: vg.Millimeter, PadY: vg.Millimeter}
	canvases := plot.Align(plots, tiles, draw.New(img))
	for i := range plots {
		for j, p := range plots[i] {
			if p != nil {
				p.Draw(canvases[i][j])
			}
		}
	}
	return write(file, img, colors.Colors())
}

// drawAxes draws the margins by depth, a curve for each kind of layer.
func drawAxes(layers []chosen, file string) error {
	p := plot.New()
	p.X.Label.Text, p.Y.Label.Text = "block", "ln(loss per input channel / per output channel)"
	p.Title.Text = "below zero: groups inside input channels"
	zero := plotter.NewFunction(func(float64) float64 { return 0 })
	zero.Color, zero.Width = color.Gray{128}, vg.Points(1)
	p.Add(zero)
	for i, role := range roles(layers, func(c chosen) string { return c.role }) {
		var xy plotter.XYs
		for _, c := range layers {
			if c.role == role {
				xy = append(xy, plotter.XY{X: float64(c.block), Y: c.margin})
			}
		}
		line, dots, err := plotter.NewLinePoints(xy)
		if err != nil {
			return err
		}
		line.Color, dots.Color, dots.Shape = plotutil.Color(i), plotutil.Color(i), plotutil.Shape(i)
		p.Add(line, dots)
		p.Legend.Add(role, line, dots)
	}
	p.Legend.Top, p.Legend.XOffs = true, -3*vg.Millimeter
	p.X.Max += 0.22 * max(1, p.X.Max) // for the legend
	img := vgimg.NewWith(vgimg.UseWH(20*vg.Centimeter, 10*vg.Centimeter), vgimg.UseDPI(110))
	p.Draw(draw.New(img))
	return write(file, img, palette.WebSafe)
}

// write writes a picture in few colors, the given ones and greys.
func write(file string, img *vgimg.Canvas, colors []color.Color) error {
	colors = slices.Clone(colors)
	for g := 0; g < 256; g += 5 {
		colors = append(colors, color.Gray{uint8(g)})
	}
	few := image.NewPaletted(img.Image().Bounds(), colors[:min(len(colors), 256)])
	imagedraw.Draw(few, few.Rect, img.Image(), few.Rect.Min, imagedraw.Src)
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, few); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o666)
}
