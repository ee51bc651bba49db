package main

import (
	"bytes"
	"fmt"
	"html"
	"math"
	"slices"
	"strings"
)

// A plot is three charts over the number of devices, side by side: axes are logarithmic, so a straight line is a power.
const (
	chartWidth, chartHeight          = 300, 260
	chartLeft, chartTop, chartBottom = 58, 34, 46
	chartRight                       = 14
)

// chart is two quantities on one axis: one is drawn solid, one dashed.
type chart struct {
	title         string
	solid, dashed quantity
}

type quantity struct {
	name string
	of   func(*result) float64
}

func charts() []chart {
	return []chart{
		{
			"until the last copy, seconds (max)",
			quantity{"later changes", func(r *result) float64 { return r.Later.AllMax.Seconds() }},
			quantity{"first changes", func(r *result) float64 { return r.First.AllMax.Seconds() }},
		}, {
			"bytes a change and device",
			quantity{"later changes", func(r *result) float64 { return r.Later.Bytes / r.receivers() }},
			quantity{"first changes", func(r *result) float64 { return r.First.Bytes / r.receivers() }},
		}, {
			"heap a device, KiB",
			quantity{"after the changes", func(r *result) float64 { return float64(r.AfterWrites) / 1024 }},
			quantity{"at rest", func(r *result) float64 { return float64(r.AtRest) / 1024 }},
		},
	}
}

// group is the runs that one line of a chart joins.
type group struct {
	name, color string
	results     []*result
}

func groups(results []*result) []group {
	all := group{name: "each knows all", color: "#ea580c"}
	near := group{name: "each knows its neighbours", color: "#2563eb"}
	for _, r := range results {
		if r.Full {
			all.results = append(all.results, r)
		} else {
			near.results = append(near.results, r)
		}
	}
	return []group{all, near}
}

// plot draws results, which ascend by devices, as SVG.
func plot(results []*result) []byte {
	var out bytes.Buffer
	all := charts()
	width := chartWidth * len(all)
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n",
		width, chartHeight, width, chartHeight)
	fmt.Fprintf(&out, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, chartHeight)
	for i, c := range all {
		fmt.Fprintf(&out, `<g transform="translate(%d 0)">`+"\n", i*chartWidth)
		c.draw(&out, results)
		fmt.Fprintln(&out, `</g>`)
	}
	fmt.Fprintln(&out, `</svg>`)
	return out.Bytes()
}

func (c *chart) draw(out *bytes.Buffer, results []*result) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, r := range results {
		low, high = min(low, c.solid.of(r), c.dashed.of(r)), max(high, c.solid.of(r), c.dashed.of(r))
	}
	x := scale(20, 15_000, chartLeft, chartWidth-chartRight)
	from, to := math.Pow(10, math.Floor(math.Log10(low))), math.Pow(10, math.Ceil(math.Log10(high)))
	y := scale(from, to, chartHeight-chartBottom, chartTop+44)
	fmt.Fprintf(out, `<text x="%d" y="16" font-size="13" font-weight="bold">%s</text>`+"\n", chartLeft, html.EscapeString(c.title))
	for v := from; v <= to*1.001; v *= 10 {
		fmt.Fprintf(out, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%g</text>`+"\n",
			chartLeft, y(v), chartWidth-chartRight, chartLeft-6, y(v)+4, v)
	}
	for i, r := range results {
		if slices.ContainsFunc(results[:i], func(before *result) bool { return before.Devices == r.Devices }) {
			continue
		}
		fmt.Fprintf(out, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", x(float64(r.Devices)), chartHeight-chartBottom+15, r.Devices)
	}
	fmt.Fprintf(out, `<text x="%d" y="%d" text-anchor="middle">devices</text>`+"\n", (chartLeft+chartWidth-chartRight)/2, chartHeight-chartBottom+32)
	fmt.Fprintf(out, `<text x="%d" y="%d">solid: %s, dashed: %s</text>`+"\n", chartLeft, chartTop, c.solid.name, c.dashed.name)
	for i, g := range groups(results) {
		fmt.Fprintf(out, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", chartLeft, chartTop+14+14*i, g.color, g.name)
		line(out, g, c.solid, "none", x, y)
		line(out, g, c.dashed, "4 3", x, y)
	}
}

func line(out *bytes.Buffer, g group, q quantity, dashes string, x, y func(float64) float64) {
	var path, dots strings.Builder
	for i, r := range g.results {
		at, height := x(float64(r.Devices)), y(q.of(r))
		fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], at, height)
		fmt.Fprintf(&dots, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", at, height, g.color)
	}
	fmt.Fprintf(out, `<path d="%s" fill="none" stroke="%s" stroke-width="2" stroke-dasharray="%s"/>`+"\n%s", path.String(), g.color, dashes, dots.String())
}

// scale returns the logarithmic map of from..to onto a..b.
func scale(from, to, a, b float64) func(float64) float64 {
	return func(v float64) float64 { return a + (b-a)*math.Log(v/from)/math.Log(to/from) }
}
