"""An AWS account on loopback: moto's server, which checks who signed."""

import contextlib
import json
import urllib.request

import botocore.session
from moto.server import ThreadedMotoServer

from openshell.providers.profile.model import Strategy
from openshell.providers.refresh_requests import MintInputs


class Aws:
    """An account with a user who may assume one role, and a role that nobody may assume."""

    def __init__(self, url):
        self.url = url
        iam = self.client("iam", "setup", "setup")
        iam.create_user(UserName="gateway")
        made = iam.create_access_key(UserName="gateway")["AccessKey"]
        self.key_id, self.secret = made["AccessKeyId"], made["SecretAccessKey"]
        trust = json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Effect": "Allow",
                        "Principal": {"AWS": "arn:aws:iam::123456789012:user/gateway"},
                        "Action": "sts:AssumeRole",
                    }
                ],
            }
        )
        self.role = iam.create_role(RoleName="agent", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
        allowed = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": "sts:*", "Resource": self.role}],
        }
        iam.put_user_policy(
            UserName="gateway", PolicyName="assume", PolicyDocument=json.dumps(allowed)
        )

    def client(self, service, key_id, secret, token=None):
        return botocore.session.Session().create_client(
            service,
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=key_id,
            aws_secret_access_key=secret,
            aws_session_token=token,
        )

    def check_who_signs(self, after="0"):
        """From now on a signature decides, as at AWS."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", after.encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request).close()

    def inputs(self, **material):
        lifetime = material.pop("lifetime", 0)
        return MintInputs(
            strategy=Strategy.AWS_STS_ASSUME_ROLE,
            material={
                "role_arn": self.role,
                "aws_access_key_id": self.key_id,
                "aws_secret_access_key": self.secret,
                **material,
            },
            max_lifetime_seconds=lifetime,
        )


@contextlib.contextmanager
def aws_account():
    """Serves until the block ends. The server's state is one for the whole process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        urllib.request.urlopen(f"{url}/moto-api/reset", data=b"").close()
        account = Aws(url)
        account.check_who_signs()
        yield account
        account.check_who_signs(after="inf")
    finally:
        server.stop()
