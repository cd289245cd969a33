package format

import "io"

// NewRows decodes the rows of one section, without a stream around them.
func NewRows(src io.Reader, s Section) *Rows {
	r := &Rows{}
	r.reset(src, s)
	return r
}
