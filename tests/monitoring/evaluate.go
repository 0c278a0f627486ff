package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// A scrape is what one target answered, and what Prometheus knows of that target.
type scrape struct {
	Text string `json:"text"`
	// Labels of the target.
	Labels map[string]string `json:"labels"`
	// HonorLabels as in a scrape configuration: whose label stays where both have one of a name.
	HonorLabels bool `json:"honorLabels"`
}

// For how long, and how often, every series has had its value.
const (
	history = 20 * time.Minute
	step    = 30 * time.Second
)

type point struct {
	t int64
	f float64
}

func (p point) T() int64                      { return p.t }
func (p point) ST() int64                     { return 0 }
func (p point) F() float64                    { return p.f }
func (p point) H() *histogram.Histogram       { return nil }
func (p point) FH() *histogram.FloatHistogram { return nil }
func (p point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample           { return p }

// What a question selects, in order.
type seriesSet struct {
	at   storage.Series
	left []storage.Series
}

func (s *seriesSet) Next() bool {
	if len(s.left) == 0 {
		return false
	}
	s.at, s.left = s.left[0], s.left[1:]
	return true
}

func (s *seriesSet) At() storage.Series                { return s.at }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// Reads the series as Prometheus does, with the labels that it would store.
func (s scrape) series(now time.Time) ([]storage.Series, error) {
	text, err := textparse.New([]byte(s.Text), "application/openmetrics-text; version=1.0.0", nil, textparse.ParserOptions{})
	if err != nil {
		return nil, err
	}
	var all []storage.Series
	for {
		entry, err := text.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if entry != textparse.EntrySeries {
			continue
		}
		var own labels.Labels
		text.Labels(&own)
		_, _, value := text.Series()
		builder := labels.NewBuilder(own)
		for name, theirs := range s.Labels {
			if known := own.Get(name); known != "" {
				if s.HonorLabels {
					continue
				}
				builder.Set("exported_"+name, known)
			}
			builder.Set(name, theirs)
		}
		var points []chunks.Sample
		for t := now.Add(-history); !t.After(now); t = t.Add(step) {
			points = append(points, point{t.UnixMilli(), value})
		}
		all = append(all, storage.NewListSeries(builder.Labels(), points))
	}
}

// Asks Prometheus' engine each expression over the scrapes; a fault for each that finds nothing.
func evaluate(scrapes []scrape, expressions map[string]string, fault func(string, error)) {
	now := time.Now().Truncate(time.Second)
	var stored []storage.Series
	for at, scrape := range scrapes {
		series, err := scrape.series(now)
		fault(fmt.Sprintf("scrape %d", at), err)
		stored = append(stored, series...)
	}
	sort.Slice(stored, func(a, b int) bool { return labels.Compare(stored[a].Labels(), stored[b].Labels()) < 0 })
	querier := &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		var found seriesSet
	series:
		for _, one := range stored {
			for _, matcher := range matchers {
				if !matcher.Matches(one.Labels().Get(matcher.Name)) {
					continue series
				}
			}
			found.left = append(found.left, one)
		}
		return &found
	}}
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 10_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: parser.NewParser(parser.Options{}),
	})
	for place, expression := range expressions {
		query, err := engine.NewInstantQuery(context.Background(), &storage.MockQueryable{MockQuerier: querier}, nil, expression, now)
		if err != nil {
			fault(place, err)
			continue
		}
		result := query.Exec(context.Background())
		if result.Err != nil {
			fault(place, result.Err)
		} else if vector, err := result.Vector(); err != nil {
			fault(place, err)
		} else if len(vector) == 0 {
			fault(place, fmt.Errorf("finds nothing: %s", strings.Join(strings.Fields(expression), " ")))
		}
		query.Close()
	}
}
