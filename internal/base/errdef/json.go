package errdef

import (
	"encoding/json"
	"fmt"
)

// wire is the form of an error in --json output, in API details and between a child process and its
// parent. The cause stays behind: what it had to say is in the message.
type wire struct {
	Code    string         `json:"code"`
	Reason  string         `json:"reason"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
	Next    []string       `json:"next,omitempty"`
}

// MarshalJSON writes {"code","reason","message","details","next"}. Details that do not marshal are
// replaced by their text: an error must always be able to cross the wire.
func (e *Error) MarshalJSON() ([]byte, error) {
	w := wire{Code: e.Code.String(), Reason: e.Reason, Message: e.Message, Details: e.Details, Next: e.Next}
	b, err := json.Marshal(w)
	if err == nil {
		return b, nil
	}
	w.Details = make(map[string]any, len(e.Details))
	for k, v := range e.Details {
		if _, err := json.Marshal(v); err != nil {
			v = fmt.Sprint(v)
		}
		w.Details[k] = v
	}
	return json.Marshal(w)
}

// UnmarshalJSON rebuilds an error, so that errors.Is(err, sentinel) holds on the other side too. A code
// that this build does not know is Internal: a newer peer may have more.
func (e *Error) UnmarshalJSON(b []byte) error {
	var w wire
	if err := json.Unmarshal(b, &w); err != nil {
		return fmt.Errorf("read error: %w", err)
	}
	*e = Error{Code: ParseCode(w.Code), Reason: w.Reason, Message: w.Message, Details: w.Details, Next: w.Next}
	return nil
}
