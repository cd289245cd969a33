package realtime

import "github.com/canopysync/canopy/moveop"

// queue is the jobs that wait for the next transaction, in the order in which they came.
//
// A transaction takes as long as its batch is large, and other pushes wait for its end. So that people who type do not
// wait for uploads, large and small jobs take turns: uploads delay the others by the time of one large job, however
// many there are. Jobs of one replica stay in order.
type queue struct {
	waiting []*job
	most    int  // ops of a group
	large   bool // the last group was of large jobs
}

const (
	// smallJob is the most ops that a job may have to go with the small ones.
	smallJob = 32
	// largeGroup is the number of ops up to which large jobs go together.
	largeGroup = 100
)

// fill takes the jobs that are there already. They are in memory whether they wait here or in front of
// the channel; how many there can be is bounded for each socket.
func (q *queue) fill(jobs <-chan *job) {
	for {
		select {
		case j := <-jobs:
			q.waiting = append(q.waiting, j)
		default:
			return
		}
	}
}

// next takes out the next group, which is not empty unless the queue is.
func (q *queue) next() []*job {
	q.large = !q.large
	group := q.take()
	if len(group) == 0 { // there are none of this size
		q.large = !q.large
		group = q.take()
	}
	return group
}

// take takes out the jobs of one size that can go together, as many as fit: those before which no other job of their
// replica must go.
func (q *queue) take() (group []*job) {
	most := q.most
	if q.large {
		most = min(most, largeGroup)
	}
	n, full := 0, false
	var rest []*job
	kept := map[moveop.ReplicaID]bool{} // replicas with a job in rest
	for _, j := range q.waiting {
		fits := len(group) == 0 || n+len(j.ops) <= most
		if full || !fits || (len(j.ops) > smallJob) != q.large || kept[j.replica()] {
			full = full || !fits
			kept[j.replica()] = true
			rest = append(rest, j)
			continue
		}
		n += len(j.ops)
		group = append(group, j)
	}
	q.waiting = rest
	return group
}

// replica is the author of the job's ops, of which there is one at least.
func (j *job) replica() moveop.ReplicaID { return j.ops[0].TS.Replica() }
