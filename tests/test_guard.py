"""Who may ask: requests in many combinations of Host, Origin, token, method and content type, against a rule."""

import asyncio

from skingpt_edge.benchmarks.tools.service_guard import cases, must_be, send_all
from skingpt_edge.benchmarks.tools.service_start import running


def test_only_the_allowed_combinations_pass():
    async def all_answers():
        async with running() as service:
            return await send_all(service)

    sent, bad, statuses = asyncio.run(all_answers())
    assert not bad
    assert len(sent) > 1000
    assert {400, 401, 403, 404, 405, 415, 421, 422} < set(statuses)


def test_the_rule_allows_some_requests_on_every_route_and_refuses_most():
    """A rule that allowed or refused everything would be of no use."""
    found = cases()
    allowed = [case for case in found if must_be(case) == (case.route.status, case.route.code)]
    assert {case.route.path for case in allowed} == {case.route.path for case in found if "?" not in case.route.path}
    assert len(allowed) < len(found) / 4
