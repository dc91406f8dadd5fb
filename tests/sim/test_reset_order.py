from __future__ import annotations

import pytest
from tooling import load_tool

from calvin_eval.sim.packs import load_pack


@pytest.mark.slow
@pytest.mark.processes
def test_states_are_those_of_a_fresh_process_whatever_its_worlds_did_before() -> None:
    tool = load_tool("reset_orders")
    jobs = [tool.Job("D", 6), tool.Job("A", 0)]
    truth = {job: tool.fresh(job, "builtin") for job in jobs}
    assert truth[jobs[0]] != truth[jobs[1]]
    orders = tool.Orders(load_pack("builtin"), truth)
    assert sum(orders.run() for _ in range(4)) > 4 * 3
    orders.close()


def test_a_state_that_depends_on_the_order_is_noticed() -> None:
    tool = load_tool("reset_orders")
    job = tool.Job("D", 6)
    orders = tool.Orders(load_pack("builtin"), {job: ["another state"] * 14})
    with pytest.raises(AssertionError, match="states differ after"):
        orders.run()
    orders.close()
