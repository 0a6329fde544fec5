"""A Kubernetes namespace as a virtual platform, through the API with a token of that namespace.

A session is one Job whose name carries the session's uuid, so that submitting it twice is impossible. httpx
suffices for the few calls that are made; the official client would double the service's memory.
"""

from planner_app.platforms.kubernetes.driver import KubernetesPlatform

__all__ = ["KubernetesPlatform"]
