"""A search's own trials say how long a step of it takes."""

from jobs.search.trial_time import seconds_per_step
from trainplane.search.policy.budget import SearchUsage
from trainplane.search.policy.state import SearchState, TrialState


def test_the_time_of_a_step_is_that_of_trials_at_rest():
    trials = {0: TrialState(0, {}, "finished", step=60), 1: TrialState(1, {}, "running", step=20)}
    trials |= {2: TrialState(2, {}, "resting", step=20), 3: TrialState(3, {}, "failed", step=0)}
    state = SearchState((), trials=trials, usage=SearchUsage(trial_s={0: 30.0, 1: 500.0, 2: 10.0, 3: 7.0}))
    assert seconds_per_step(state) == 0.5
    assert seconds_per_step(SearchState(())) is None
    assert seconds_per_step(SearchState((), trials={1: trials[1]}, usage=state.usage)) is None
