"""Prompts for vLLM, rendered in threads ahead of the engine.

A query is rendered once (chat template, images), whatever the number of its samples and prefixes.
Several threads decode images. One does the rest, which is not thread-safe.
"""

import dataclasses
import hashlib
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

from si.engines.hf import Prompts, decode_images
from si.records import Request

AHEAD = 64  # requests
DECODERS = min(4, os.cpu_count() or 1)  # threads

K = TypeVar("K")


class Renderer:
    """Turns requests into the engine's inputs.

    Attributes:
        waited: seconds spent waiting for a prompt.
    """

    def __init__(self, prompts: Prompts):
        self.prompts = prompts
        self.engine: Any = None
        self.waited = 0.0

    def use(self, engine: Any) -> None:
        """Render for this engine from now on."""
        self.engine = engine
        # Requests that are too long are dropped by name instead of refused with an exception.
        self.any_length = dataclasses.replace(
            engine.renderer.default_cmpl_tok_params, max_total_tokens=None
        )

    def ahead(self, requests: Iterator[tuple[K, Request]]) -> Generator[tuple[K, Request, Any]]:
        """Requests in order, each with its key and its inputs. At most `AHEAD` are rendered in
        advance. Consecutive requests for the same query are rendered once."""
        waiting: deque[tuple[K, Request, Future[Any]]] = deque()
        last, rendered = None, Future[Any]()
        decoders, renderer = ThreadPoolExecutor(DECODERS), ThreadPoolExecutor(1)
        try:
            while True:
                for key, request in islice(requests, AHEAD - len(waiting)):
                    query = (request.question, request.images)
                    if query != last:
                        decoded = decoders.submit(decode_images, request.images)
                        rendered = renderer.submit(self.query, *query, decoded)
                        last = query
                    waiting.append((key, request, rendered))
                if not waiting:
                    return
                key, request, future = waiting.popleft()
                started = time.monotonic()
                inputs = future.result()
                self.waited += time.monotonic() - started
                yield key, request, with_prefix(inputs, request.prefix_ids)
        finally:
            for pool in (decoders, renderer):
                pool.shutdown(cancel_futures=True)

    def render(self, request: Request) -> Any:
        """The engine's inputs for one request: prompt and prefix as ids, images as tensors."""
        decoded: Future[Any] = Future()
        decoded.set_result(decode_images(request.images))
        inputs = self.query(request.question, request.images, decoded)
        return with_prefix(inputs, request.prefix_ids)

    def query(self, question: str, encoded: Sequence[bytes], decoded: Future[Any]) -> Any:
        """The engine's inputs for a query, shared by all of its samples and prefixes."""
        images = decoded.result()
        tokenizer = self.prompts.tokenizer
        text = self.prompts.processor.apply_chat_template(
            self.prompts.turns(question, images),
            add_generation_prompt=True,
            tokenize=False,
        )
        bos = tokenizer.bos_token
        special = not (bos and text.startswith(bos))
        ids = tokenizer(text, add_special_tokens=special).input_ids
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if images:
            # One token per image here; the engine expands it to the image's number of tokens.
            prompt["multi_modal_data"] = {"image": images}
            prompt["multi_modal_uuids"] = {
                "image": [hashlib.sha256(data).hexdigest() for data in encoded]
            }
        # The other cache omits images that were rendered before. If that request is then dropped,
        # the engine never receives them, and the next request waits for them forever.
        (inputs,) = self.engine.renderer.render_cmpl([prompt], self.any_length, skip_mm_cache=True)
        return inputs


def with_prefix(inputs: Any, prefix: Sequence[int]) -> Any:
    """Inputs with the prefix of a response appended to the prompt."""
    if not prefix:
        return inputs
    return {**inputs, "prompt_token_ids": [*inputs["prompt_token_ids"], *prefix]}
