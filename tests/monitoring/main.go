// Judges what the chart hands to Prometheus and its operator, with their own code: the fields of ServiceMonitors and PrometheusRules, for
// which the lab's API server has no definitions, and the expressions of alerts and dashboards.
//
//	packhorse-monitoring < input.json
//
// The input has `objects` and `expressions`, and may have `scrapes`, over which each expression of `questions` has to find something; every
// fault is a line of the output, and the status is then 1.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"github.com/prometheus/prometheus/promql/parser"
)

type input struct {
	Objects     []json.RawMessage `json:"objects"`
	Expressions map[string]string `json:"expressions"`
	Scrapes     []scrape          `json:"scrapes"`
	Questions   map[string]string `json:"questions"`
}

func main() {
	var all input
	if err := json.NewDecoder(os.Stdin).Decode(&all); err != nil {
		fmt.Fprintln(os.Stderr, "the input:", err)
		os.Exit(2)
	}
	faults := 0
	fault := func(place string, err error) {
		if err != nil {
			fmt.Printf("%s: %v\n", place, err)
			faults++
		}
	}
	promql := parser.NewParser(parser.Options{})
	for place, expression := range all.Expressions {
		_, err := promql.ParseExpr(expression)
		fault(place, err)
	}
	for _, object := range all.Objects {
		var head struct {
			Kind     string `json:"kind"`
			Metadata struct {
				Name string `json:"name"`
			} `json:"metadata"`
		}
		fault("an object", json.Unmarshal(object, &head))
		var into any
		switch head.Kind {
		case "ServiceMonitor":
			into = &monitoring.ServiceMonitor{}
		case "PrometheusRule":
			into = &monitoring.PrometheusRule{}
		default:
			fault(head.Kind, fmt.Errorf("no object of Prometheus' operator"))
			continue
		}
		strict := json.NewDecoder(bytes.NewReader(object))
		strict.DisallowUnknownFields()
		fault(head.Kind+" "+head.Metadata.Name, strict.Decode(into))
	}
	evaluate(all.Scrapes, all.Questions, fault)
	if faults > 0 {
		os.Exit(1)
	}
}
