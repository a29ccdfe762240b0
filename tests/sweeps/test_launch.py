"""What of a plan is left to train."""

from fishernet.families import trial_config
from fishernet.plan import SweepPlan
from sweeps.launch import Job, JobList, Launched
from sweeps.tracking import TrackedRun

DONE, HALFWAY, NEW, DIVERGED, DIED = CONFIGS = tuple(trial_config(model="VAE", seed=s, epochs=s + 1) for s in range(5))
RUNS = {
    config: TrackedRun(config.run_name, config, status, 1, reason)
    for config, status, reason in (
        (DONE, "FINISHED", ""),
        (HALFWAY, "KILLED", "interrupted"),
        (DIVERGED, "FAILED", "diverged: the loss became nan in epoch 1"),
        (DIED, "FAILED", "the trial died without a message"),
    )
}


def test_interrupted_cohorts_go_on_as_they_were_and_what_diverged_is_not_tried_again():
    jobs = JobList(
        SweepPlan(CONFIGS), RUNS, {(DONE, HALFWAY): ["newer", "older"], (DONE,): ["of one that has finished"]},
        lambda configs: [configs], lambda job: {"members": job.members},
    )  # fmt: skip
    assert list(jobs.by_id.values()) == [Job((DONE, HALFWAY), ("newer", "older")), Job((NEW, DIED))]
    assert (jobs.finished, set(jobs.failed)) == ({DONE}, {DIVERGED})
    assert (jobs.n_runs, jobs.n_epochs, list(jobs.cohort_sizes)) == (4, 1 + 2 + 3 + 5, [2, 2])
    assert (jobs.ended, jobs.left) == ("1 runs are finished, 1 diverged", "3 to train, 1 cohorts from checkpoints")
    assert jobs.resumes


def test_a_plan_whose_runs_have_all_ended_leaves_nothing_and_asks_for_no_devices():
    jobs = JobList(SweepPlan((DONE, DIVERGED)), RUNS, {}, lambda configs: 1 / 0, lambda job: {})
    assert (jobs.n_runs, jobs.by_id) == (0, {})
    fresh = JobList(SweepPlan((NEW,)), {}, {}, lambda configs: [configs], lambda job: {})
    assert (fresh.n_runs, fresh.resumes) == (1, False)


def test_a_launch_is_resumed_unless_all_that_failed_would_fail_again():
    assert not Launched(failed={DIVERGED: "diverged: the loss became nan"}).resumable
    assert Launched(failed={DIVERGED: "diverged: the loss became nan", DIED: "a worker died"}).resumable
    assert Launched(error="the head is lost").resumable
