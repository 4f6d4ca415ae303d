"""Downloads files from the Hugging Face hub."""

import os
import socket
import urllib.parse
import urllib.request

from weights import formats
from weights.formats import WeightsError

TIMEOUT = 5  # seconds to wait for the hub to answer at all


def download(name):
    """Fetches model.safetensors of a repository such as "timm/resnet50.a1_in1k".

    A file that was fetched before needs no network. HF_ENDPOINT names another hub.

    Returns:
      The file's path.

    Raises:
      WeightsError: there is no such repository or file, no network, or no
        huggingface_hub.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise WeightsError(
            f"hf:{name} needs the client of the hub ({error}): "
            "pip install --no-deps -r requirements-exchange.txt"
        ) from error
    options = {"repo_id": name, "filename": "model.safetensors"}
    try:
        return huggingface_hub.hf_hub_download(**options, local_files_only=True)
    except errors.HFValidationError as error:
        raise WeightsError(f"hf:{name} is no OWNER/NAME: {error}") from error
    except errors.LocalEntryNotFoundError:
        pass
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    host = urllib.parse.urlsplit(endpoint)
    try:
        if host.scheme not in urllib.request.getproxies():
            port = host.port or (443 if host.scheme == "https" else 80)
            socket.create_connection((host.hostname, port), TIMEOUT).close()
        return huggingface_hub.hf_hub_download(**options, endpoint=endpoint)
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"hf:{name} asks for a login ({formats.first_line(error)}): fetch its "
            "model.safetensors yourself and name that file"
        ) from error
    except errors.LocalEntryNotFoundError as error:  # any other answer from the server
        answer = formats.first_line(error.__cause__ or error)
        raise WeightsError(f"hf:{name} was refused by {endpoint}: {answer}") from error
    except errors.HfHubHTTPError as error:
        raise WeightsError(
            f"hf:{name} has no model.safetensors to give: {formats.first_line(error)}"
        ) from error
    except OSError as error:
        raise WeightsError(
            f"hf:{name} cannot be fetched, {endpoint} does not answer ({error}); fetch "
            "its model.safetensors where there is a network and name that file"
        ) from error
    except Exception as error:  # the client's HTTP library has its own
        raise WeightsError(
            f"hf:{name} was not fetched whole: {formats.first_line(error)}; the same "
            "command tries again"
        ) from error
