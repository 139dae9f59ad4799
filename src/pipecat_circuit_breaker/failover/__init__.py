#
# Copyright (c) 2026, the pipecat-circuit-breaker authors
#
# SPDX-License-Identifier: BSD 2-Clause License
#

"""Failover between the services of a switcher; imported only where somebody asks for it."""

from collections.abc import Sequence
from typing import Any

from pipecat.pipeline.service_switcher import ServiceSwitcher
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.services.llm_service import LLMService
from pipecat.services.stt_service import STTService
from pipecat.services.tts_service import TTSService

from pipecat_circuit_breaker.failover.failover import Failover
from pipecat_circuit_breaker.failover.llm import LLMFailover
from pipecat_circuit_breaker.failover.llm_entrance import Entrance
from pipecat_circuit_breaker.failover.stt import DEFAULT_REPLAY_SECS, STTFailover
from pipecat_circuit_breaker.failover.tts import TTSFailover

__all__ = ["Failover"]


def failover_of(switcher: ServiceSwitcher[Any], **settings: Any) -> Failover:
    """Take up failover between the services of a switcher, whatever they are.

    Args:
        switcher: The switcher.
        **settings: See :meth:`.CircuitBreakerProcessor.failover`.

    Raises:
        TypeError: It is no switcher, or no failover is known for its services.
        ValueError: It has a failover already.
    """
    if not isinstance(switcher, ServiceSwitcher):
        raise TypeError(f"expected a ServiceSwitcher, got {switcher!r:.100}")
    if isinstance(
        getattr(switcher.process_frame, "__self__", None), Entrance | STTFailover | TTSFailover
    ):
        raise ValueError(f"{switcher} has a failover already")
    services: Sequence[FrameProcessor] = switcher.services
    ears = [service for service in services if isinstance(service, STTService)]
    replay_secs = settings.pop("replay_secs", None)
    if len(ears) == len(services):
        if settings.pop("text_aggregator", None) is not None:
            raise TypeError("text_aggregator is for LLM services")
        return STTFailover(
            switcher,
            ears,
            replay_secs=DEFAULT_REPLAY_SECS if replay_secs is None else replay_secs,
            **settings,
        )
    if replay_secs is not None:
        raise TypeError("replay_secs is for STT services")
    llms = [service for service in services if isinstance(service, LLMService)]
    if len(llms) == len(services):
        return LLMFailover(switcher, llms, **settings)
    if settings.pop("text_aggregator", None) is not None:
        raise TypeError("text_aggregator is for LLM services")
    voices = [service for service in services if isinstance(service, TTSService)]
    if len(voices) != len(services):
        raise TypeError(f"expected a switcher of LLM, STT or TTS services, got {services}")
    for voice in voices:
        if getattr(voice, "_text_aggregation_mode", None) == "token":
            raise TypeError(f"expected TTS services that speak by sentence, {voice} does by token")
    return TTSFailover(switcher, voices, **settings)
