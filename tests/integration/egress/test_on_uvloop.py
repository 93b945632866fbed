"""The supervisor runs on uvloop: the scenarios that touch transports run there as well."""

import asyncio
import itertools

import pytest
import uvloop

from integration.egress import (
    test_bodies_and_streams as streams,
)
from integration.egress import (
    test_capture as capture,
)
from integration.egress import (
    test_explicit_proxy as explicit,
)
from integration.egress import (
    test_inference_on_the_wire as models,
)
from integration.egress import (
    test_plain_tcp as tcp,
)
from integration.egress import (
    test_reload as reload,
)
from integration.egress import (
    test_slow_readers as slow,
)
from integration.egress import (
    test_websocket_on_the_wire as sockets,
)

SCENARIOS = [
    explicit.test_plain_request_is_forwarded_and_judged,
    explicit.test_one_client_connection_serves_several_hosts,
    explicit.test_tunnel_with_tls_is_inspected,
    explicit.test_tls_skip_is_a_raw_tunnel_with_half_close,
    explicit.test_the_leaf_is_for_the_connect_host_whatever_sni_says,
    explicit.test_an_upstream_that_is_down_is_a_502,
    explicit.test_a_client_that_drips_its_head_is_ended,
    explicit.test_more_connections_than_allowed_wait_their_turn,
    streams.test_a_response_streams_before_it_has_ended,
    streams.test_expect_continue_reaches_both_ends,
    streams.test_a_refusal_is_readable_while_the_body_is_still_coming,
    streams.test_a_client_that_half_closes_gets_its_answer,
    streams.test_a_client_that_vanishes_takes_its_upstream_along,
    streams.test_an_upstream_that_closed_in_between_is_dialled_again,
    streams.test_a_slow_reader_does_not_make_the_proxy_hoard,
    streams.test_an_upstream_that_hangs_up_in_the_middle_of_an_upload_is_a_502,
    slow.test_a_client_that_leaves_its_last_answer_unread_keeps_its_place,
    slow.test_the_proxy_ends_at_once_whoever_reads,
    reload.test_reloads_under_load_refuse_nothing,
    capture.test_http_to_a_looked_up_name,
    capture.test_tls_to_a_looked_up_name,
    capture.test_tls_skip_passes_the_hello_on,
    capture.test_a_connection_to_the_listener_itself_is_refused,
    tcp.test_a_server_speaks_first,
    tcp.test_each_direction_ends_by_itself,
    tcp.test_a_reset_of_the_server_is_a_reset,
    tcp.test_a_client_that_leaves_while_the_server_is_dialled_leaves_nothing_behind,
    tcp.test_a_reload_while_the_server_is_dialled_sends_nothing,
    models.test_one_upstream_connection_serves_one_client_connection,
    models.test_an_upstream_that_closed_in_between_is_asked_again,
    models.test_without_routes_it_says_how_to_set_one,
    models.test_a_client_that_goes_away_takes_its_upstream_along,
    sockets.test_frames_before_the_101_are_judged_after_it,
    sockets.test_a_message_that_drips,
    sockets.test_a_frame_after_close,
    sockets.test_a_close_of_ours_stands_between_two_frames_of_the_server,
    sockets.test_many_reloads_disturb_nobody,
    sockets.test_a_server_that_never_reads_is_given_up,
    sockets.test_thousands_of_tiny_messages_do_not_keep_others_waiting,
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__[5:])
def test_on_uvloop(scenario):
    async def run():
        assert isinstance(asyncio.get_running_loop(), uvloop.Loop)
        await scenario()

    uvloop.run(run())


@pytest.mark.parametrize("endpoint", sockets.MODES.values(), ids=sockets.MODES.keys())
def test_websockets_end_on_uvloop(endpoint):
    async def run():
        await sockets.test_either_side_may_end_its_direction_first(endpoint)
        for who, tls in itertools.product(("client", "server", "proxy"), (False, True)):
            await sockets.test_an_abrupt_end_reaches_the_other_side(endpoint, who, tls)

    uvloop.run(run())
