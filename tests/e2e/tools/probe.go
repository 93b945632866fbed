// A client that goes its own way: its own resolver, no proxy whatever the environment says.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	transport := &http.Transport{Proxy: nil, ForceAttemptHTTP2: true}
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	answer, err := client.Get(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != 200 {
		fmt.Fprintln(os.Stderr, answer.Status, string(body))
		os.Exit(1)
	}
	fmt.Println(answer.Proto, string(body))
}
